"""What holds for the admin as a whole."""

from datetime import date, timedelta

import pytest
from django.apps import apps
from django.contrib import admin
from django.db import connection
from django.db.models import Model
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from accounts.models import User
from billing.models import RunBudget
from tests.executions.factories import make_execution, make_flow
from triggers.models import Delivery, Moment, Trigger

APPS = ("accounts", "billing", "llm", "flows", "executions", "triggers")
MODELS = [model for app in APPS for model in apps.get_app_config(app).get_models()]


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_every_model_is_registered_with_search_and_filters(model: type[Model]) -> None:
    registered: admin.ModelAdmin[Model] = admin.site.get_model_admin(model)
    assert registered.search_fields
    assert registered.search_help_text
    assert registered.list_filter


@pytest.mark.parametrize("page", ["triggers_delivery", "triggers_moment", "billing_runbudget"])
def test_no_list_does_a_query_per_row(admin_client: Client, alice: User, page: str) -> None:
    trigger = Trigger.objects.create(flow=make_flow(alice), type="manual", name="By hand")

    def queries() -> int:
        with CaptureQueriesContext(connection) as captured:
            assert admin_client.get(reverse(f"admin:{page}_changelist")).status_code == 200
        return len(captured)

    def add(number: int) -> None:
        Delivery.objects.create(trigger=trigger, verdict="invalid", method="POST", size=number)
        moment = timezone.now() + timedelta(minutes=number)
        Moment.objects.create(trigger=trigger, moment=moment, outcome="missed", lateness=0)
        RunBudget.objects.create(user=User.objects.create_user(f"u{number}@x.example"), period_start=date(2026, 11, 1))

    add(0)
    few = queries()
    for number in range(1, 6):
        add(number)
    assert queries() == few


def test_a_button_of_a_page_leads_back_to_it(admin_client: Client, alice: User) -> None:
    flow = make_flow(alice)
    button = {"action": "stop", "_selected_action": str(flow.pk), "_from_page": "1"}
    answer = admin_client.post(reverse("admin:flows_flow_changelist"), button)
    assert answer.headers["Location"] == reverse("admin:flows_flow_change", args=[flow.pk])


def test_an_action_on_many_rows_tells_of_a_few_and_counts_the_rest(admin_client: Client, alice: User) -> None:
    flow = make_flow(alice)
    ended = [str(make_execution(flow).pk) for _ in range(8)]
    action = {"action": "cancel", "_selected_action": ended}
    page = admin_client.post(reverse("admin:executions_execution_changelist"), action, follow=True).content.decode()
    assert page.count("there is nothing to cancel") == 5
    assert "3 more were refused." in page
