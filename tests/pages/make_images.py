"""The pictures of the README, taken from a real server: `.venv/bin/python -m tests.pages.make_images`.

It needs Chromium: on the PATH, or named in `CHROMIUM`.
"""

import sys

from tests.llm.model_server import ModelServer
from tests.pages.agent_sample import run_agent
from tests.pages.billing_sample import LEO, opened_shop, settings_of, subscribe_and_stay
from tests.pages.browser import Window, chromium, running_browser, window
from tests.pages.sample import fill
from tests.pages.server import REPOSITORY, running_server
from tests.witness import witness

IMAGES = REPOSITORY / "docs" / "images"
MAX_BYTES = 250_000


def take(view: Window, name: str) -> None:
    path = IMAGES / f"{name}.png"
    view.page.screenshot(path=path)
    if path.stat().st_size > MAX_BYTES:
        sys.exit(f"{path.name} is larger than {MAX_BYTES:,} bytes.")
    print(f"{path.relative_to(REPOSITORY)}: {path.stat().st_size:,} bytes")


def take_all(view: Window) -> None:
    view.sign_in()
    view.open("/admin/flows/flow/")
    take(view, "admin-flows")
    view.open("/admin/executions/execution/?q=alice")
    take(view, "admin-executions")
    view.open("/admin/executions/execution/?q=Order+lines&status__exact=error&trigger_type__exact=webhook")
    view.follow("#result_list tbody a")
    take(view, "admin-execution")
    view.open("/admin/executions/execution/?q=Sales+note")
    page = view.follow("#result_list tbody a")
    page.locator("#blox-trace-heading").evaluate("heading => heading.scrollIntoView()")
    take(view, "admin-agent")
    take_customer(view)
    page = view.authorize()
    page.locator("#operations-tag-flows").evaluate("heading => heading.scrollIntoView()")
    take(view, "api-docs")


def take_customer(view: Window) -> None:
    view.page.set_viewport_size({"width": 1280, "height": 940})
    view.open(f"/admin/billing/customer/?q={LEO}")
    view.follow("#result_list tbody a")
    take(view, "admin-customer")
    view.page.set_viewport_size({"width": 1280, "height": 800})


def main() -> None:
    if chromium() is None:
        sys.exit("There is no Chromium on the PATH; name one in CHROMIUM.")
    IMAGES.mkdir(parents=True, exist_ok=True)
    with (
        witness() as world,
        ModelServer() as models,
        opened_shop() as stripe,
        running_server(f"{world.host},{models.host}", **settings_of(stripe)) as server,
    ):
        subscribe_and_stay(server, stripe)
        fill(server, world.url, repeat=3)
        run_agent(server, models)
        with running_browser() as browser, window(browser, server) as view:
            take_all(view)
            if view.problems:
                sys.exit("The pages have problems:\n" + "\n".join(view.problems))


if __name__ == "__main__":
    main()
