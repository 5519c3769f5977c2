"""Bursts, tenants with a great deal to do, partners that answer a byte a second, and blocks that hang."""

import pytest

from tests.faults.conftest import Begin
from tests.faults.experiment import full_form_only, scaled
from tests.faults.flows import SHORT
from tests.faults.server import Server
from tests.waiting import wait_until

pytestmark = pytest.mark.experiment

LASTED = "extract(epoch FROM completed_at - claimed_at)::float"
WAITED = "extract(epoch FROM claimed_at - started_at)::float"


def test_e10_a_burst_of_webhooks_each_sent_five_times_at_once(begin: Begin, server: Server) -> None:
    with begin("E10 burst with duplicates") as trial:
        flow = trial.tenant().flow(SHORT.format(url=server.world.url))
        burst = trial.load([flow], callers=50, times=5).fire(scaled(400, least=100))
        firsts = [answer for answer in burst.answers if not answer.replayed]
        assert len(firsts) == len(burst.keys)
        trial.remark(f"p99 {burst.percentile(99):.2f} s at {len(burst.answers) / burst.seconds():.0f}/s")
        assert burst.percentile(99) < 2
        trial.settle()
        with trial.load([flow], rate=30) as steady:
            wait_until(lambda: len(steady.answers) >= scaled(600, least=60), seconds=120)
        trial.remark(f"steady p99 {steady.percentile(99):.2f} s")
        assert steady.percentile(99) < 1  # beside workers, callers and databases on the same cores


def test_e17_a_partner_sends_a_byte_a_second(begin: Begin, server: Server) -> None:
    with begin("E17 a byte a second") as trial:
        tenant, url = trial.tenant(), server.world.url
        dripping = tenant.flow(
            f'  - {{name: get, handler: blox.http, config: {{url: "{url}/drip?s=60"}}, timeout: 3,'
            " retry: {max_attempts: 1}}\n"
        )
        healthy = tenant.flow(SHORT.format(url=url))
        trial.load([dripping]).fire(scaled(100, least=30))
        trial.load([healthy]).fire(scaled(100, least=30))
        trial.settle(30)
        assert set(trial.executions(dripping, "status")) == {"error"}
        assert set(trial.executions(healthy, "status")) == {"success"}
        slowest = max(trial.executions(dripping, LASTED))
        trial.remark(f"step ended after {slowest:.1f} s, due at 3")
        assert slowest < 3 + 3  # the answer takes a minute; another experiment may run on the same cores
        assert max(trial.executions(healthy, LASTED)) < 3  # they do not wait for those


def test_e18_one_tenant_queues_thousands_and_another_one(begin: Begin, server: Server) -> None:
    with begin("E18 noisy tenant") as trial:
        loud = trial.tenant().flow(
            f'  - {{name: get, handler: blox.http, config: {{url: "{server.world.url}/slow?s=1"}}}}\n'
        )
        quiet = trial.tenant().flow(SHORT.format(url=server.world.url))
        trial.load([loud]).fire(scaled(5000, least=400))
        queued = trial.executions_in(loud, "queued")
        trial.load([quiet]).fire(1)
        trial.settle(150)
        [waited] = trial.executions(quiet, WAITED)
        trial.remark(f"started after {waited:.1f} s, behind {queued}")
        assert queued > 100
        assert waited < 5


@full_form_only  # the short form is tests/executions/test_engine_third_party.py
def test_e20_a_step_never_ends_and_another_hangs_its_worker(begin: Begin, server: Server) -> None:
    with begin("E20 steps that hang") as trial:
        tenant = trial.tenant()
        endless = tenant.flow(server.bad("never_end"), head="  timeout: 2\n")
        hanging = tenant.flow(server.bad("hang_once"))
        healthy = tenant.flow(SHORT.format(url=server.world.url))
        trial.load([endless]).fire(2)
        wait_until(lambda: trial.executions_in(endless, "working") == 2)
        trial.load([hanging]).fire(1)
        trial.load([healthy]).fire(20)
        trial.settle()
        assert set(trial.executions(endless, "status")) == {"timeout"}
        lasted = max(trial.executions(endless, LASTED))
        trial.remark(f"endless step ended after {lasted:.1f} s, due at 2")
        assert lasted < 2 + 5 + 4  # the sweeper's grace, its tick, and what another experiment on the same cores takes
        assert set(trial.executions(hanging, "status") + trial.executions(healthy, "status")) == {"success"}
        assert any("has stood still" in log.read_text() for log in server.logs())
    for name in ("worker-1", "worker-2"):  # they still run what never ends
        server.drop(name)
