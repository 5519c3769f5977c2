"""A block that blocks the loop of its worker: the worker is ended, and what it held goes on elsewhere."""

import os
from pathlib import Path

import pytest
from rest_framework.test import APIClient

from executions.dispatch import ring_bell
from executions.models import Execution
from tests.executions.conftest import odd  # noqa: F401 - the fixture
from tests.executions.flows import result, run, start
from tests.executions.odd_blocks import Odd
from tests.faults.processes import worker
from tests.faults.test_worker_killed import all_ended, sweep_until

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.faults]


def test_a_worker_whose_loop_stands_still_is_ended_and_its_executions_go_on(
    api: APIClient,
    odd: type[Odd],  # noqa: F811 - the fixture
    tmp_path: Path,
) -> None:
    flow = start(api, "  - {name: hang, handler: acme.odd, config: {do: block_the_loop_once}}\n")
    healthy = run(api, start(api, "  - {name: wait, handler: blox.delay, config: {seconds: 1}}\n"), 1)
    hangs = run(api, flow, str(tmp_path / "mark"))
    with worker(PYTHONPATH=os.pathsep.join([str(tmp_path), os.getcwd()])) as process:
        ring_bell()
        sweep_until(all_ended)
    assert result(healthy) == ("success", 1), process.output()
    assert result(hangs) == ("success", "in the end")
    assert "has stood still" in process.output()
    assert Execution.objects.get(pk=hangs.pk).fence > 2
