"""The pages as a browser sees them: scripts run under the content security policy, nothing fails, the buttons act."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from tests.pages.billing_sample import LEO, opened_shop, settings_of, subscribe_and_stay
from tests.pages.browser import Window, chromium, running_browser, window
from tests.pages.sample import fill
from tests.pages.server import Server, running_server
from tests.witness import witness

pytestmark = [
    pytest.mark.processes,
    pytest.mark.once,
    pytest.mark.pages,
    pytest.mark.xdist_group("pages"),
    pytest.mark.skipif(chromium() is None, reason="no Chromium on the PATH, none in CHROMIUM"),
]
LISTS = "#content-main .model-list a, #content-main tbody th a"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with witness() as world, opened_shop() as stripe, running_server(world.host, **settings_of(stripe)) as running:
        subscribe_and_stay(running, stripe)
        fill(running, world.url)
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with running_browser() as running:
        yield running


@pytest.fixture
def view(browser: Browser, server: Server) -> Iterator[Window]:
    with window(browser, server) as opened:
        opened.sign_in()
        yield opened
        assert opened.problems == []


def hrefs(view: Window, selector: str) -> list[str]:
    found: list[str] = view.page.eval_on_selector_all(selector, "links => links.map(a => a.getAttribute('href'))")
    return found


def test_every_list_and_a_page_of_each_show_without_an_error(view: Window) -> None:
    lists = hrefs(view, LISTS)
    assert len(lists) >= 17
    for path in lists:
        view.open(path)
        assert view.page.locator("#result_list th").all() or view.page.locator(".paginator").count(), path
        for page in hrefs(view, f"#result_list a[href^='{path}']")[:1]:
            view.open(page)
            assert view.page.locator("h1").inner_text().startswith(("Change", "View")), page


@pytest.mark.parametrize(
    "path", ["/", "/admin/login/", "/admin/flows/flow/", "/admin/executions/execution/", "/api/docs"]
)
def test_no_page_is_wider_than_a_telephone(browser: Browser, server: Server, path: str) -> None:
    with window(browser, server, width=390) as view:
        view.sign_in()
        view.open(path)
        assert not view.is_wider_than_the_window()
        assert view.problems == []


def test_an_operation_is_tried_out_with_a_token_on_the_api_page(view: Window) -> None:
    page = view.authorize()
    block = page.locator("#operations-flows-listFlows")
    for part in (".opblock-summary-control", ".try-out__btn", ".execute"):
        block.locator(part).click()
    answer = block.locator(".live-responses-table .response").first
    assert answer.locator(".response-col_status").inner_text().startswith("200")
    assert "Demo: order alert" in answer.inner_text()


def test_the_buttons_of_a_flow_start_and_stop_it(view: Window) -> None:
    view.open("/admin/flows/flow/?q=Driver+roster")
    view.follow("#result_list tbody a")
    for button, said in (("Start (deploy the draft)", "running"), ("Stop (let executions finish)", "stopped")):
        view.follow(f".object-tools button:has-text('{button}')")
        assert view.page.locator(".messagelist").inner_text() == f"Driver roster is {said}."
        assert view.page.locator(".field-shown_status .blox-status").inner_text() == said


def test_firing_a_trigger_links_to_its_execution(view: Window) -> None:
    view.open("/admin/triggers/trigger/?q=Shop")
    view.follow("#result_list tbody a")
    view.follow(".object-tools button:has-text('Fire now')")
    view.follow(".messagelist a")
    view.page.go_back()
    view.follow(".object-tools a:text-is('Executions')")
    view.follow("#result_list tbody a")
    assert view.page.locator("#content h2").first.inner_text().startswith("webhook ")


def test_a_parked_execution_is_canceled_and_retried_from_its_page(view: Window) -> None:
    view.open("/admin/executions/execution/?state__exact=parked")
    view.follow("#result_list tbody a")
    view.follow(".object-tools button:has-text('Cancel')")
    assert "Canceled" in view.page.locator(".messagelist").inner_text()
    view.follow(".object-tools button:has-text('Retry from the start')")
    assert "Retried as" in view.page.locator(".messagelist").inner_text()


def test_the_tier_of_a_chosen_user_is_set(view: Window) -> None:
    view.open("/admin/accounts/user/?q=mia")
    view.page.check("#result_list tbody input")
    view.page.select_option("select[name=action]", "set_tier")
    view.page.select_option("select[name=tier]", "pro")
    view.follow("button[name=index]")
    assert view.page.locator(".messagelist").inner_text() == "1 user is now on Pro."


def test_a_limit_of_a_customers_own_is_added_and_shown(view: Window) -> None:
    view.open("/admin/billing/customer/?q=mia")
    view.follow("#result_list tbody th a")
    view.page.click("#limit_overrides-group .add-row a")
    row = "#id_limit_overrides-0"
    view.page.select_option(f"{row}-limit", "triggers_per_flow")
    view.page.fill(f"{row}-value", "8")
    view.page.fill(f"{row}-reason", "Agreed by mail")
    view.follow("input[name=_continue]")
    shown = view.page.locator(".blox-limits tr", has_text="triggers a flow")
    assert shown.inner_text().split("\t")[2:] == ["8", "8", "it is deleted"]


def test_the_customers_page_fits_a_telephone_and_asks_before_a_subscription_is_ended(
    browser: Browser, server: Server
) -> None:
    with window(browser, server, width=390, theme="dark") as view:
        view.sign_in()
        view.open(f"/admin/billing/customer/?q={LEO}")
        page = view.follow("#result_list tbody a")
        assert not view.is_wider_than_the_window()
        assert page.locator(".blox-plot-bar").count() == 30
        page = view.follow("button:text('Cancel at the period')")
        assert "Stripe ends the subscription at the end of what is paid for" in page.locator("#content").inner_text()
        assert not view.is_wider_than_the_window()
        page = view.follow("#content input[type=submit]")
        assert "subscription active, ends" in page.locator(".messagelist").inner_text()
        assert view.problems == []
