"""A flow asks a person, and goes on with the answer."""

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.core import mail
from django.db.models.functions import Now
from django.test import Client
from django.utils import timezone
from rest_framework.test import APIClient

from executions.engine.leases import claim
from executions.engine.sweeper import sweep
from executions.models import Approval, Execution, JournalEntry, State
from tests.executions.flows import result, retry_from_failed, run, start, trace

pytestmark = pytest.mark.django_db(transaction=True)
Drain = Callable[[], None]

ASKING = """\
  - name: ask
    handler: blox.approval
    config: {message: "Ship {{ payload.id }}?", approved: ship, rejected: tell%s}
    peers: [ship, tell]
  - {name: ship, handler: blox.output, config: {value: {shipped: "{{ payload }}"}}}
  - {name: tell, handler: blox.output, config: {value: {told: "{{ payload }}"}}}
"""


def ask(api: APIClient, drain: Drain, more: str = "", payload: Any = None) -> Execution:
    """An execution that has asked and parked."""
    execution = run(api, start(api, ASKING % more), payload or {"id": 7})
    drain()
    execution.refresh_from_db()
    assert (execution.state, execution.lease_owner) == (State.PARKED, "")
    return execution


def post(api: APIClient, execution: Execution, verb: str, body: dict[str, Any]) -> Any:
    return api.post(f"/api/v1/flows/{execution.flow_id}/executions/{execution.pk}/{verb}", body, format="json")


def asked(api: APIClient, execution: Execution) -> list[dict[str, Any]]:
    return api.get(f"/api/v1/flows/{execution.flow_id}/executions/{execution.pk}/approvals").json()["items"]


def test_a_question_is_shown_and_its_answer_leads_on(api: APIClient, drain: Drain) -> None:
    execution = ask(api, drain)
    [question] = asked(api, execution)
    [step] = trace(api, execution)["ask"]
    assert (question["message"], question["answer"], question["stepId"]) == ("Ship 7?", None, step["id"])
    assert step["status"] == "waiting"
    told = api.get(f"/api/v1/flows/{execution.flow_id}/executions/{execution.pk}/explain").json()
    wait = told["waits"][-1]
    assert (wait["cause"], wait["listener"], wait["until"]) == ("approval", "ask", question["expiresAt"])
    answer = post(api, execution, "approve", {"approved": True, "comment": "go"})
    assert answer.status_code == 200
    assert (answer.json()["answer"], answer.json()["by"]) == ("approved", "alice@shop.example")
    drain()
    output = {"approved": True, "by": "alice@shop.example", "comment": "go", "payload": {"id": 7}}
    assert result(execution) == ("success", {"shipped": output})
    assert "tell" not in trace(api, execution)


def test_a_rejection_goes_to_the_other_peer(api: APIClient, drain: Drain) -> None:
    execution = ask(api, drain)
    [question] = asked(api, execution)
    assert post(api, execution, "approve", {"approved": False, "step": question["stepId"]}).status_code == 200
    drain()
    assert result(execution)[1]["told"]["approved"] is False


def test_an_answer_without_a_peer_goes_nowhere_once_the_other_has_one(api: APIClient, drain: Drain) -> None:
    flow = start(
        api,
        "  - {name: ask, handler: blox.approval, config: {message: Ship?, approved: ship}, peers: [ship]}\n"
        "  - {name: ship, handler: blox.output}\n",
    )
    execution = run(api, flow)
    drain()
    post(api, execution, "approve", {"approved": False})
    drain()
    assert result(execution)[0] == "success"
    assert "ship" not in trace(api, execution)


def test_no_answer_in_time_counts_as_a_rejection_by_timeout(api: APIClient, drain: Drain) -> None:
    execution = ask(api, drain, ", timeout: 3600")
    past = timezone.now() - timedelta(seconds=1)
    Approval.objects.update(expires_at=past)
    late = post(api, execution, "approve", {"approved": True})
    assert (late.status_code, late.json()["code"]) == (409, "approval_expired")
    Execution.objects.filter(pk=execution.pk).update(due_at=past)
    drain()
    told = result(execution)[1]["told"]
    assert (told["approved"], told["by"]) == (False, "timeout")


def test_a_short_timeout_wakes_the_execution_by_itself(api: APIClient, drain: Drain) -> None:
    execution = ask(api, drain, ", timeout: 0.3")
    assert execution.due_at == Approval.objects.get().expires_at


def test_a_second_answer_and_one_after_the_end_are_refused(api: APIClient, drain: Drain) -> None:
    execution = ask(api, drain)
    [question] = asked(api, execution)
    assert post(api, execution, "approve", {"approved": True}).status_code == 200
    for body in ({"approved": False}, {"approved": False, "approvalId": question["id"]}):
        second = post(api, execution, "approve", body)
        assert (second.status_code, second.json()["code"]) == (409, "approval_answered")
    canceled = ask(api, drain)
    post(api, canceled, "cancel", {})
    late = post(api, canceled, "approve", {"approved": True})
    assert (late.status_code, late.json()["code"]) == (409, "execution_ended")
    assert asked(api, canceled)[0]["answer"] is None


def test_strangers_and_unknown_questions_are_not_found(api: APIClient, bobs_api: APIClient, drain: Drain) -> None:
    execution = ask(api, drain)
    other = ask(api, drain)
    assert post(bobs_api, execution, "approve", {"approved": True}).status_code == 404
    foreign = {"approved": True, "approvalId": asked(api, other)[0]["id"]}
    assert post(api, execution, "approve", foreign).status_code == 404
    assert post(api, execution, "approve", {"approved": "perhaps"}).status_code == 400
    nothing = post(api, execution, "resolve", {"decision": "retry"})
    assert (nothing.status_code, nothing.json()["code"]) == (409, "nothing_asked")
    assert not Approval.objects.answered().exists()


def test_of_several_open_questions_the_answer_says_which(api: APIClient, drain: Drain) -> None:
    flow = start(
        api,
        "  - {name: first, handler: blox.transform, config: {value: 1}, peers: [one, two]}\n"
        "  - {name: one, handler: blox.approval, config: {message: One?}, peers: [all]}\n"
        "  - {name: two, handler: blox.approval, config: {message: Two?}, peers: [all]}\n"
        "  - {name: all, handler: blox.merge}\n",
    )
    execution = run(api, flow)
    drain()
    which = post(api, execution, "approve", {"approved": True})
    assert (which.status_code, which.json()["code"]) == (400, "which_approval")
    first, second = asked(api, execution)
    assert post(api, execution, "approve", {"approved": True, "approvalId": second["id"]}).status_code == 200
    drain()
    execution.refresh_from_db()
    assert execution.state == State.PARKED  # the other one still waits
    assert post(api, execution, "approve", {"approved": True, "approvalId": first["id"]}).status_code == 200
    drain()
    assert result(execution)[0] == "success"


def test_an_answer_that_comes_before_the_park_is_not_missed(
    api: APIClient, drain: Drain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run has looked, found nothing, and is about to give up its lease when the answer comes."""
    from executions.engine.run import ExecutionRun

    parks = ExecutionRun._park
    answers: list[int] = []

    async def answered_first(self: ExecutionRun, seconds: float) -> None:
        def answer() -> None:
            execution = Execution.objects.get(pk=self.claimed.pk)
            assert execution.state == State.WORKING
            answers.append(post(api, execution, "approve", {"approved": True}).status_code)

        if not answers:
            await self.store.call(answer)
        await parks(self, seconds)

    monkeypatch.setattr(ExecutionRun, "_park", answered_first)
    execution = run(api, start(api, ASKING % ""), {"id": 7})
    drain()
    assert answers == [200]
    assert result(execution)[1]["shipped"]["approved"] is True


def test_a_retry_from_the_failed_step_keeps_the_answer(api: APIClient, drain: Drain) -> None:
    flow = start(
        api,
        "  - {name: ask, handler: blox.approval, config: {message: Go?}, peers: [no]}\n"
        "  - {name: no, handler: blox.fail, config: {message: no}}\n",
    )
    execution = run(api, flow)
    drain()
    post(api, execution, "approve", {"approved": True})
    drain()
    assert result(execution)[0] == "error"
    retry = retry_from_failed(api, execution)
    drain()
    assert result(retry)[0] == "error"
    assert asked(api, retry) == []


def test_a_failure_beside_it_withdraws_the_question(api: APIClient, drain: Drain) -> None:
    flow = start(
        api,
        "  - {name: all, handler: blox.for_each, config: {items: [1], each: pair}, peers: [pair], on_error: again}\n"
        "  - {name: pair, handler: blox.transform, config: {value: 1}, peers: [ask, wait]}\n"
        "  - {name: ask, handler: blox.approval, config: {message: Ship?}}\n"
        "  - {name: wait, handler: blox.delay, config: {seconds: 0.3}, peers: [no]}\n"
        "  - {name: no, handler: blox.fail, config: {message: no}}\n"
        "  - {name: again, handler: blox.approval, config: {message: Go on?}}\n",
    )
    execution = run(api, flow)
    drain()
    first, second = asked(api, execution)
    late = post(api, execution, "approve", {"approved": True, "approvalId": first["id"]})
    assert (late.status_code, late.json()["code"]) == (409, "approval_withdrawn")
    assert post(api, execution, "approve", {"approved": True}).json()["id"] == second["id"]


# Mail. -----------------------------------------------------------------------------------------------------------
def test_each_addressee_gets_a_link_and_answers_in_their_own_name(api: APIClient, drain: Drain) -> None:
    execution = ask(api, drain, ", notify: [ann@shop.example, ben@shop.example]")
    assert [message.to for message in mail.outbox] == [["ann@shop.example"], ["ben@shop.example"]]
    assert "Ship 7?" in mail.outbox[0].subject
    link = link_of(mail.outbox[1])
    browser = Client(enforce_csrf_checks=True)
    page = browser.get(link)
    assert page.status_code == 200
    assert "Ship 7?" in page.content.decode()
    assert browser.post(link, {"answer": "approve"}).status_code == 403  # without the page's token
    assert not Approval.objects.answered().exists()
    token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page.content.decode())
    assert token
    done = browser.post(link, {"answer": "approve", "comment": "fine", "csrfmiddlewaretoken": token[1]})
    assert "approved" in done.content.decode()
    drain()
    shipped = result(execution)[1]["shipped"]
    assert (shipped["by"], shipped["comment"]) == ("ben@shop.example", "fine")


def test_a_link_ends_with_its_question_and_cannot_be_made_up(api: APIClient, drain: Drain) -> None:
    execution = ask(api, drain, ", notify: ann@shop.example")
    link = link_of(mail.outbox[0])
    assert Client().get(link[:-3] + "xxx").status_code == 404
    post(api, execution, "approve", {"approved": False})
    page = Client().post(link, {"answer": "approve"}).content.decode()
    assert "answered already" in page
    assert "<form" not in page
    assert Approval.objects.get().answer == "rejected"


def test_a_link_of_an_ended_execution_answers_nothing(api: APIClient, drain: Drain) -> None:
    execution = ask(api, drain, ", notify: ann@shop.example")
    post(api, execution, "cancel", {})
    page = Client().post(link_of(mail.outbox[0]), {"answer": "approve"}).content.decode()
    assert "<form" not in page
    assert Approval.objects.get().answer == ""


def test_after_a_crash_nobody_is_asked_or_written_to_again(api: APIClient, drain: Drain) -> None:
    execution = ask(api, drain, ", notify: ann@shop.example")
    Execution.objects.update(due_at=Now() - timedelta(seconds=1))
    claim("dying", limit=1, holding=0)
    Execution.objects.update(lease_until=Now() - timedelta(seconds=1))
    sweep()
    drain()
    execution.refresh_from_db()
    assert execution.state == State.PARKED
    assert len(mail.outbox) == Approval.objects.count() == JournalEntry.objects.filter(kind="ask").count() == 1


def test_who_cannot_be_written_to_fails_the_step(api: APIClient, drain: Drain) -> None:
    flow = start(api, "  - {name: ask, handler: blox.approval, config: {message: Ship?, notify: nobody}}\n")
    execution = run(api, flow)
    drain()
    assert result(execution) == ("error", "invalid_email")
    assert not Approval.objects.exists()


def link_of(message: Any) -> str:
    found = re.search(r"https?://[^/\s]+(/approvals/\S+)", message.body)
    assert found
    return found[1]


# Admin. ----------------------------------------------------------------------------------------------------------
def test_an_operator_answers_from_the_list_and_from_the_page(
    api: APIClient, drain: Drain, admin_client: Client
) -> None:
    first, second = ask(api, drain), ask(api, drain)
    one, two = Approval.objects.order_by("id")
    assert (
        f"approval/{one.pk}/change"
        in admin_client.get(f"/admin/executions/execution/{first.pk}/change/").content.decode()
    )
    page = admin_client.get(f"/admin/executions/approval/{one.pk}/change/").content.decode()
    assert "Approve" in page and "run the step again" not in page
    path = "/admin/executions/approval/"
    admin_client.post(path, {"action": "approve", "_selected_action": [str(one.pk)]})
    admin_client.post(path, {"action": "reject", "_selected_action": [str(one.pk), str(two.pk)]})
    drain()
    assert result(first)[1]["shipped"]["by"] == "operator@blox.example"
    assert result(second)[1]["told"]["approved"] is False
    assert "Ship 7?" not in admin_client.get(f"{path}?state=pending").content.decode()
    assert "Ship 7?" in admin_client.get(f"{path}?state=answered").content.decode()
