"""Run in the environment of a server under test: makes tenants, and prints an access token of each (JSON).

Arguments: how many of the tier `high_frequency`, and how many of `pro`.
"""

import json
import sys

import django


def main(*numbers: int) -> dict[str, list[str]]:
    from accounts.models import Tier, User
    from accounts.services import create_access_token

    tokens = {}
    for tier, number in zip((Tier.HIGH_FREQUENCY, Tier.PRO), numbers, strict=True):
        users = [User.objects.create_user(f"{tier}-{index}@shop.example", tier=tier) for index in range(number)]
        tokens[tier.value] = [create_access_token(user=user, name="faults")[1] for user in users]
    return tokens


if __name__ == "__main__":
    django.setup()
    print(json.dumps(main(*map(int, sys.argv[1:]))))
