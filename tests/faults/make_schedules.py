"""Run in the environment of a server under test: makes schedules, and prints the config of each by its id (JSON).

The argument is JSON: `flows` (ids), `configs` (each flow gets one schedule of each) and `now`.
"""

import json
import sys
from datetime import datetime
from typing import Any

import django


def main(flows: list[str], configs: list[dict[str, Any]], now: str) -> dict[str, dict[str, Any]]:
    from flows.models import Flow
    from triggers.services import create_trigger

    made = {}
    for flow in Flow.objects.filter(pk__in=flows):
        for config in configs:
            trigger = create_trigger(
                flow=flow, type="schedule", name=config["cron"], config=config, now=datetime.fromisoformat(now)
            )
            made[str(trigger.pk)] = config
    return made


if __name__ == "__main__":
    django.setup()
    print(json.dumps(main(**json.loads(sys.argv[1]))))
