"""Who is next, and who waits: tiers, tenants, flows, and the caps that no number of workers passes."""

import threading
from collections import Counter
from collections.abc import Callable
from datetime import timedelta

import pytest
from django.db import connection
from django.db.models.functions import Now
from django.test import Client, override_settings
from django.utils import timezone
from rest_framework.test import APIClient

from accounts.models import Tier, User
from billing.tiers import TIERS
from executions.endings import Ending
from executions.engine.lanes import anything_startable
from executions.engine.leases import Claimed, Lease, claim
from executions.engine.store import Change, write
from executions.engine.sweeper import sweep
from executions.errors import ConcurrencyLimit
from executions.models import Execution, ExecutionPayload, ExecutionStatus, State
from executions.services import accept_execution
from flows.models import Flow
from tests.executions.factories import make_execution, make_flow
from tests.executions.flows import result, run, start
from triggers.models import Delivery

pytestmark = pytest.mark.django_db(transaction=True)
Drain = Callable[[], None]
TRANSFORM = "  - {name: a, handler: blox.transform, config: {value: 1}}\n"
FREE_CAP = TIERS[Tier.FREE].concurrent_executions


def queue(flow: Flow, count: int, *, limit: int | None = None, **fields: object) -> list[Execution]:
    """`count` executions as acceptance leaves them, each due a little later than the one before."""
    since = timezone.now() - timedelta(hours=1)
    version = flow.versions.get()
    rows = [
        Execution(
            user=flow.user,
            flow=flow,
            version=version,
            trigger_type="manual",
            priority=TIERS[flow.user.tier].priority,
            flow_limit=limit,
            **{"due_at": since + timedelta(milliseconds=number), **fields},
        )
        for number in range(count)
    ]
    Execution.objects.bulk_create(rows)
    ExecutionPayload.objects.bulk_create(ExecutionPayload(execution=row) for row in rows)
    return rows


def tenant(name: str, tier: Tier) -> Flow:
    return make_flow(User.objects.create_user(f"{name}@shop.example", tier=tier))


def end(claimed: Claimed | Execution) -> None:
    ending = Ending(ExecutionStatus.SUCCESS, output="1")
    assert claimed.deadline_at is not None
    write([Change(claimed.pk, Lease(claimed.fence, claimed.deadline_at), ending=ending)])


def working(user: User) -> int:
    return Execution.objects.filter(user=user, state=State.WORKING).count()


def test_a_tenants_long_queue_does_not_delay_anothers_single_execution() -> None:
    loud, quiet = tenant("loud", Tier.HIGH_FREQUENCY), tenant("quiet", Tier.HIGH_FREQUENCY)
    queue(loud, 500)
    held = claim("worker", limit=10, holding=0)  # every slot of the only worker is the loud tenant's
    [single] = queue(quiet, 1, due_at=timezone.now())
    end(held[0])
    [next_one] = claim("worker", limit=1, holding=9)
    assert next_one.pk == single.pk


def test_slots_go_round_the_tenants() -> None:
    flows = [tenant(name, Tier.PRO) for name in ("a", "b", "c")]
    queue(flows[0], 500)
    queue(flows[1], 4)
    queue(flows[2], 1)
    first = claim("worker", limit=12, holding=0)  # an equal share for each; then what is left of the twelve slots
    rest = claim("worker", limit=12 - len(first), holding=len(first))
    taken = Counter(each.flow_id for each in first + rest)
    assert [taken[flow.pk] for flow in flows] == [7, 4, 1]


def test_slots_go_round_the_flows_of_one_tenant() -> None:
    long = tenant("one", Tier.PRO)
    short = make_flow(long.user, name="short")
    queue(long, 500)
    queue(short, 1)
    assert short.pk in {each.flow_id for each in claim("worker", limit=2, holding=0)}


def test_within_a_flow_the_first_accepted_is_the_first_claimed() -> None:
    rows = queue(tenant("one", Tier.PRO), 5)
    assert [each.pk for each in claim("worker", limit=5, holding=0)] == [row.pk for row in rows]


def test_higher_tiers_go_first() -> None:
    flows = [tenant(tier, tier) for tier in (Tier.FREE, Tier.PRO, Tier.ENTERPRISE, Tier.HIGH_FREQUENCY)]
    for flow in flows:
        queue(flow, 2)
    order = [each.flow_id for each in claim("worker", limit=7, holding=0)]
    assert order == [flow.pk for flow in reversed(flows) for _ in range(2)][:7]


def test_a_worker_kept_for_some_tiers_takes_no_others_and_others_still_run() -> None:
    free, pro = tenant("free", Tier.FREE), tenant("pro", Tier.PRO)
    queue(free, 1)
    queue(pro, 1)
    with override_settings(BLOX_WORKER_TIERS=["free"]):
        assert [each.flow_id for each in claim("for free", limit=9, holding=0)] == [free.pk]
        assert claim("for free", limit=9, holding=0) == []
    assert [each.flow_id for each in claim("for all", limit=9, holding=0)] == [pro.pk]


@pytest.mark.parametrize("tier", [Tier.FREE, Tier.PRO])
def test_a_tenants_cap_holds_exactly_under_claimers_at_once(tier: Tier) -> None:
    cap = TIERS[tier].concurrent_executions
    flow, other = tenant("capped", tier), tenant("other", tier)
    queue(flow, 200)
    queue(other, 200)
    for round_ in range(5):
        claimers(lambda name: claim(name, limit=cap, holding=0), threads=3, times=4)
        assert (working(flow.user), working(other.user)) == (cap, cap), f"round {round_}"
        for row in Execution.objects.filter(state=State.WORKING)[: cap + 1]:
            end(row)


def claimers(fn: Callable[[str], object], *, threads: int, times: int) -> None:
    """Call `fn` from `threads` threads, all at once, `times` each."""
    together = threading.Barrier(threads)

    def work(name: str) -> None:
        try:
            together.wait()
            for _ in range(times):
                fn(name)
        finally:
            connection.close()

    running = [threading.Thread(target=work, args=(f"claimer {number}",)) for number in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()


def test_nothing_of_a_cap_leaks_through_ends_parks_expiries_and_cancels(api: APIClient, alice: User) -> None:
    alice.tier = Tier.FREE
    alice.save()
    flow = make_flow(alice)
    rows = queue(flow, 20)

    def take() -> list[Claimed]:
        claimed = claim("worker", limit=10, holding=1)
        assert len(claimed) == FREE_CAP
        assert claim("other", limit=10, holding=1) == []
        return claimed

    for each in take():  # ends
        end(each)
    for each in take():  # parks
        parked = {"state": State.PARKED, "due_at": timezone.now() + timedelta(hours=1)}
        write([Change(each.pk, each.lease, release=parked)])
    take()  # expires
    Execution.objects.filter(state=State.WORKING).update(lease_until=Now() - timedelta(seconds=1))
    sweep()
    for each in take():  # canceled while it hangs past its deadline
        api.post(f"/api/v1/flows/{flow.pk}/executions/{each.pk}/cancel")
        Execution.objects.filter(pk=each.pk).update(deadline_at=Now() - timedelta(minutes=1))
    sweep()
    take()
    assert Execution.objects.filter(flow=flow).count() == len(rows)


def test_a_parked_execution_that_comes_due_counts_like_a_queued_one() -> None:
    flow = tenant("one", Tier.FREE)
    queue(flow, 5, state=State.PARKED)
    later = queue(flow, 1, state=State.PARKED, due_at=timezone.now() + timedelta(hours=1))
    assert len(claim("worker", limit=10, holding=0)) == FREE_CAP
    assert Execution.objects.filter(state=State.PARKED).get() == later[0]


def test_what_waits_for_its_tenants_cap_holds_no_worker_and_rings_for_none() -> None:
    flow = tenant("one", Tier.FREE)
    queue(flow, 5)
    assert anything_startable()
    held = claim("worker", limit=10, holding=0)
    assert not anything_startable()
    end(held[0])
    assert anything_startable()


def test_a_flows_limit_holds_under_claimers_at_once_and_keeps_no_other_flow_back() -> None:
    flow = tenant("one", Tier.PRO)
    free_flow = make_flow(flow.user, name="free")
    queue(flow, 300, limit=3)
    queue(free_flow, 5)
    claimers(lambda name: claim(name, limit=10, holding=0), threads=3, times=3)
    by_flow = Counter(Execution.objects.filter(state=State.WORKING).values_list("flow_id", flat=True))
    assert by_flow == {flow.pk: 3, free_flow.pk: 5}


def test_an_execution_that_must_run_alone_is_claimed_alone_and_keeps_no_other_back() -> None:
    flow, other = tenant("one", Tier.PRO), tenant("other", Tier.PRO)
    queue(flow, 3, claim_alone=True, due_at=timezone.now() - timedelta(seconds=1))
    queue(other, 1, due_at=timezone.now())
    assert [each.flow_id for each in claim("busy", limit=10, holding=1)] == [other.pk]
    assert [each.flow_id for each in claim("idle", limit=10, holding=0)] == [flow.pk]  # one of three


@pytest.mark.parametrize(("suspect", "seconds"), [("on_probation", 2), ("claim_alone", 100)])
def test_what_waits_for_a_worker_that_holds_nothing_keeps_no_other_tenant_back(suspect: str, seconds: int) -> None:
    flow, other = tenant("one", Tier.PRO), tenant("other", Tier.PRO)
    queue(flow, 1, due_at=timezone.now() - timedelta(seconds=seconds), **{suspect: True})
    queue(other, 1, due_at=timezone.now())
    assert [each.flow_id for each in claim("busy", limit=1, holding=99)] == [other.pk]
    assert anything_startable()
    assert [each.flow_id for each in claim("idle", limit=1, holding=0)] == [flow.pk]


def test_flows_that_call_flows_do_not_lock_themselves_out_under_a_cap_of_two(
    api: APIClient, alice: User, drain: Drain
) -> None:
    child = start(api, "  - {name: slow, handler: blox.delay, config: {seconds: 0.1}}\n")
    middle = start(api, f"  - {{name: call, handler: blox.call_flow, config: {{flow: '{child}'}}}}\n")
    top = start(api, f"  - {{name: call, handler: blox.call_flow, config: {{flow: '{middle}'}}}}\n")
    User.objects.filter(pk=alice.pk).update(tier=Tier.FREE)
    parents = [run(api, top, {"n": number}) for number in range(3)]
    drain()  # each end wakes the parent, so nothing is left that waits for a moment
    assert [result(parent) for parent in parents] == [("success", {"n": number}) for number in range(3)]


def test_the_limit_of_a_flow_comes_from_its_organism(api: APIClient) -> None:
    flow = start(api, TRANSFORM, head="  concurrency: {limit: 2}\n")
    executions = [run(api, flow) for _ in range(5)]
    assert {execution.flow_limit for execution in executions} == {2}
    assert len(claim("worker", limit=10, holding=0)) == 2


def test_queue_is_the_default_and_runs_all_of_them_in_turn(api: APIClient, drain: Drain) -> None:
    flow = start(api, TRANSFORM, head="  concurrency: 1\n")
    executions = [run(api, flow) for _ in range(4)]
    drain()
    assert [result(execution) for execution in executions] == [("success", 1)] * 4


def test_skip_refuses_a_webhook_while_the_limit_is_alive_and_says_why(
    api: APIClient, anonymous: APIClient, drain: Drain
) -> None:
    flow = start(api, TRANSFORM, head="  concurrency: {limit: 1, overlap: skip}\n")
    body = {"name": "in", "type": "webhook", "config": {}}
    token = api.post(f"/api/v1/flows/{flow}/triggers", body, format="json").json()["webhookToken"]
    path = f"/webhooks/{token}"
    assert anonymous.post(path, {}, format="json").status_code == 202
    refused = anonymous.post(path, {}, format="json")
    assert (refused.status_code, refused.json()["code"]) == (409, "concurrency_limit")
    assert "limited to 1 at once" in refused.json()["message"]
    assert Execution.objects.count() == 1
    assert list(Delivery.objects.order_by("received_at").values_list("verdict", "code")) == [
        ("accepted", ""),
        ("throttled", "concurrency_limit"),
    ]
    drain()
    assert anonymous.post(path, {}, format="json").status_code == 202


def test_two_firings_at_once_never_both_pass_a_skip(api: APIClient) -> None:
    flow = Flow.objects.get(pk=start(api, TRANSFORM, head="  concurrency: {limit: 2, overlap: skip}\n"))
    verdicts: list[str] = []

    def fire(_: str) -> None:
        try:
            accept_execution(flow=Flow.objects.get(pk=flow.pk), trigger_type="manual", now=timezone.now())
            verdicts.append("accepted")
        except ConcurrencyLimit:
            verdicts.append("refused")

    claimers(fire, threads=4, times=3)
    assert Counter(verdicts) == {"accepted": 2, "refused": 10}
    assert Execution.objects.count() == 2


def test_cancel_ends_the_oldest_in_favour_of_a_newer_firing(api: APIClient, drain: Drain) -> None:
    flow = start(api, TRANSFORM, head="  concurrency: {limit: 2, overlap: cancel}\n")
    held, queued = run(api, flow), run(api, flow)
    claim("worker", limit=1, holding=0)
    newer, newest = run(api, flow), run(api, flow)
    held.refresh_from_db()
    queued.refresh_from_db()
    assert held.state == State.WORKING and held.cancel_requested_at  # its worker is asked
    assert (queued.status, queued.error_code) == ("error", "canceled")
    assert queued.error_message == "Canceled by a newer firing of the flow (concurrency)."
    drain()
    assert [result(newer), result(newest)] == [("success", 1)] * 2


def test_a_test_run_of_the_draft_is_neither_refused_nor_refuses(api: APIClient) -> None:
    flow = start(api, TRANSFORM, head="  concurrency: {limit: 1, overlap: skip}\n")
    url = f"/api/v1/flows/{flow}/executions/run"
    for _ in range(2):
        assert api.post(url, {"draft": True}, format="json").status_code == 201
    assert api.post(url, {}, format="json").status_code == 201
    assert api.post(url, {}, format="json").json()["code"] == "concurrency_limit"


def test_metrics_say_how_many_tenants_are_at_their_cap(client: Client) -> None:
    flow = tenant("one", Tier.FREE)
    queue(flow, FREE_CAP)
    make_execution(tenant("idle", Tier.FREE), status="running")
    assert "bloxserver_tenants_at_cap 0.0" in client.get("/metrics").content.decode()
    claim("worker", limit=FREE_CAP + 1, holding=0)
    assert "bloxserver_tenants_at_cap 1.0" in client.get("/metrics").content.decode()
