"""Processes are killed, frozen and ended while they work."""

import pytest

from tests.faults.conftest import Begin
from tests.faults.experiment import scaled
from tests.faults.flows import mixed
from tests.waiting import wait_until

pytestmark = pytest.mark.experiment


def test_e1_workers_are_killed_in_the_middle_of_their_work(begin: Begin) -> None:
    with begin("E1 workers killed") as trial:
        flows = mixed(trial.tenant())
        with trial.load(flows, rate=20) as load:
            for number in range(scaled(12, least=3)):
                trial.let_work(trial.random.randrange(8, 24))
                trial.kill(f"worker-{number % 2 + 1}")
            wait_until(lambda: len(load.accepted()) >= scaled(400, least=60))
