"""Fills a server with what a few tenants do in a day, through the API."""

import time
from collections.abc import Callable
from typing import Any

import httpx2

from tests.pages.server import Server

SECONDS = 60  # after which executions that do not end are given up
API = "/api/v1"

ORDER_LINES = """\
organism:
  name: order-lines
listeners:
  - name: check_order
    description: Takes what matters from the order
    handler: blox.transform
    config:
      value: {id: "{{ payload.id }}", lines: "{{ payload.lines }}"}
    peers: [each_line]
  - name: each_line
    handler: blox.for_each
    config: {items: "{{ payload.lines }}", each: price_line, max_parallel: 3}
    peers: [price_line, is_large]
  - name: price_line
    description: Asks the price list
    handler: blox.http
    config:
      method: PUT
      url: "WORLD/prices/{{ payload.sku }}"
      json: "{{ payload }}"
      headers: {Authorization: "Bearer {{ secrets.SHOP_TOKEN }}"}
    peers: [line_total]
  - name: line_total
    handler: blox.transform
    config:
      value: {sku: "{{ payload.body.body.sku }}", total: "{{ double(payload.body.body.quantity) * 12.5 }}"}
  - name: is_large
    handler: blox.branch
    config:
      cases: [{when: "size(payload) > 2", to: tell_sales}]
      otherwise: done
    peers: [tell_sales, done]
  - name: tell_sales
    handler: blox.http
    config: {method: POST, url: "WORLD/sales", json: {lines: "{{ size(payload) }}"}}
    peers: [done]
  - name: done
    handler: blox.output
    config: {value: {status: done, lines: "{{ size(steps.each_line) }}"}}
"""
CRM_SYNC = """\
organism:
  name: crm-sync
listeners:
  - name: push_to_crm
    handler: blox.http
    config: {method: PUT, url: "WORLD/flaky/2", json: {contact: "{{ payload.email }}"}}
    retry: {max_attempts: 3, backoff: 1, max_delay: 1}
    peers: [count]
  - name: count
    handler: blox.key_value
    config: {op: increment, key: synced, value: 1}
    peers: [remember]
  - name: remember
    handler: blox.key_value
    config: {op: set, key: "contact:{{ payload }}", value: {seen: true, source: "crm"}, ttl: 86400}
"""
SLOW_PARTNER = """\
organism:
  name: slow-partner
  timeout: 1
listeners:
  - name: ask_partner
    handler: blox.http
    config: {url: "WORLD/slow?s=2"}
"""
INVOICE_PDF = """\
organism:
  name: invoice
listeners:
  - name: render_invoice
    handler: blox.http
    config: {method: POST, url: "WORLD/status/422", json: {invoice: "{{ payload.invoice }}", text: "{{ payload.text }}"}}
    peers: [done]
  - name: done
    handler: blox.output
"""
REMINDER = """\
organism:
  name: reminder
listeners:
  - name: wait_a_week
    handler: blox.delay
    config: {seconds: 604800}
    peers: [remind]
  - name: remind
    handler: blox.log
    config: {message: "Remind {{ payload.customer }} of their trial."}
"""
CLEAN_UP = """\
organism:
  name: clean-up
listeners:
  - name: fetch
    handler: blox.transform
    config: {value: {stale: 3}}
    peers: [note]
  - name: note
    handler: blox.log
    config: {message: "{{ payload.stale }} stale carts removed"}
"""
BAD_DRAFT = """\
organism:
  name: support-triage
  entry: read_ticket
  timout: 60
listeners:
  - name: read_ticket
    handler: blox.transfrom
    config: {value: "{{ payload.text }}"}
    peers: [is_urgent]
  - name: is_urgent
    handler: blox.branch
    config:
      cases: [{when: "payload.text.contains(", to: page_somebody}]
      otherwise: file_it
    peers: [page_someone, file_it]
  - name: file_it
    handler: blox.log
    config: {message: "{{ payload }}", levl: info}
"""

ALICE, CHEN, MIA = "alice@shop.example", "chen@logistics.example", "mia@studio.example"


class Tenant:
    """The API as one user sees it. An answer that is not a success raises."""

    def __init__(self, url: str, email: str) -> None:
        self._client = httpx2.Client(base_url=url, headers={"Authorization": f"Bearer dev:{email}"}, timeout=20)

    def send(self, method: str, path: str, body: Any = None) -> Any:
        answer = self._client.request(method, path, json=body)
        if not answer.is_success:
            raise RuntimeError(f"{method} {path}: {answer.status_code} {answer.text}")
        return answer.json() if answer.content else None

    def flow(self, name: str, yaml: str, *triggers: dict[str, Any], started: bool = True, description: str = "") -> str:
        body = {"name": name, "organismYaml": yaml, "description": description, "triggers": list(triggers)}
        flow: str = self.send("POST", f"{API}/flows", body)["id"]
        if started:
            self.send("POST", f"{API}/flows/{flow}/start")
        return flow

    def run(self, flow: str, payload: Any) -> str:
        execution: str = self.send("POST", f"{API}/flows/{flow}/executions/run", {"inputPayload": payload})["id"]
        return execution

    def act(self, action: str, flow: str, execution: str, body: Any = None) -> None:
        self.send("POST", f"{API}/flows/{flow}/executions/{execution}/{action}", body)

    def status(self, flow: str, execution: str) -> str:
        status: str = self.send("GET", f"{API}/flows/{flow}/executions/{execution}")["status"]
        return status

    def post_to_webhook(self, flow: str, payload: Any, key: str) -> None:
        triggers = self.send("GET", f"{API}/flows/{flow}/triggers")["items"]
        url = next(trigger["webhookUrl"] for trigger in triggers if trigger["type"] == "webhook")
        httpx2.post(url, json=payload, headers={"Idempotency-Key": key}).raise_for_status()


def webhook(name: str) -> dict[str, Any]:
    return {"type": "webhook", "name": name, "config": {"type": "webhook"}}


def schedule(name: str, cron: str, timezone: str) -> dict[str, Any]:
    return {"type": "schedule", "name": name, "config": {"type": "schedule", "cron": cron, "timezone": timezone}}


def fill(server: Server, world: str, repeat: int = 1) -> None:
    """Users, flows of every status, triggers, stored values, and `repeat` times some twenty executions.

    `world` is the URL of a `tests.witness` server, which flows call. Returns when what can end has ended.
    """
    alice, chen, mia = (Tenant(server.url, email) for email in (ALICE, CHEN, MIA))
    for tenant in (alice, chen, mia):
        tenant.send("GET", f"{API}/me")
    server.manage("set_tier", ALICE, "pro")
    server.manage("set_tier", CHEN, "enterprise")
    mia.run(mia.flow("Nightly clean-up", CLEAN_UP), {})
    _stored_values(alice)
    _run_alices(alice, world, repeat)
    _run_chens(chen, repeat)
    wait_until(lambda: alice.send("GET", f"{API}/executions?status=running&pageSize=1")["total"] <= repeat)


def _stored_values(tenant: Tenant) -> None:
    tenant.send("PUT", f"{API}/secrets/SHOP_TOKEN", {"value": "not-for-your-eyes"})
    tenant.send("PUT", f"{API}/secrets/CRM_KEY", {"value": "nor-this"})
    tenant.send("PUT", f"{API}/variables/SHOP_URL", {"value": "https://shop.example"})
    tenant.send(
        "PUT", f"{API}/variables/LIMITS", {"value": {"large": 100, "countries": ["DE", "FR", "JP"], "note": "x" * 90}}
    )


def _run_alices(alice: Tenant, world: str, repeat: int) -> None:
    orders = alice.flow(
        "Order lines",
        ORDER_LINES.replace("WORLD", world),
        webhook("Shop: new order"),
        schedule("Every weekday at nine", "0 9 * * 1-5", "Europe/Berlin"),
        description="Prices every line of an order and tells sales about the large ones.",
    )
    crm = alice.flow("CRM sync", CRM_SYNC.replace("WORLD", world), webhook("CRM contact changed"))
    invoices = alice.flow("Invoices", INVOICE_PDF.replace("WORLD", world), webhook("Invoice due"))
    reminders = alice.flow("Trial reminder", REMINDER)
    partner = alice.flow("Partner stock", SLOW_PARTNER.replace("WORLD", world))
    alice.flow("Support triage", BAD_DRAFT, started=False, description="A draft that still has errors.")
    for number in range(repeat):
        for order in range(6):
            lines = [{"sku": f"SKU-{order}{line}", "quantity": line + 1} for line in range(order % 4)]
            payload = {"id": f"A-{number}{order}", "customer": "Ada", "lines": lines}
            alice.post_to_webhook(orders, payload, f"order-{number}-{order}")
        lines = [{"sku": "SKU-90", "quantity": 1}, {"sku": "SKU-91", "quantity": "a dozen"}]
        alice.post_to_webhook(orders, {"id": f"A-{number}9", "customer": "Grace", "lines": lines}, f"order-{number}-9")
        alice.run(orders, {"id": f"A-{number}8"})
        alice.run(partner, {})
        alice.run(crm, {"email": f"ada{number}@shop.example"})
        alice.run(crm, {"email": f"grace{number}@shop.example"})
        alice.run(invoices, {"invoice": f"2026-{number:03}", "text": "A long text about the invoice. " * 30})
        alice.run(reminders, {"customer": "Ada"})
    alice.act("cancel", reminders, alice.run(reminders, {"customer": "Grace"}))
    failed = alice.run(invoices, {"invoice": "2026-999", "text": "Short"})
    wait_until(lambda: alice.status(invoices, failed) == "error")
    alice.act("retry", invoices, failed, {"from": "failed"})


def _run_chens(chen: Tenant, repeat: int) -> None:
    trucks = chen.flow(
        "Truck positions", CLEAN_UP.replace("clean-up", "trucks"), schedule("Each minute", "* * * * *", "Asia/Tokyo")
    )
    customs = chen.flow("Customs papers", CLEAN_UP.replace("clean-up", "customs"), webhook("Papers arrived"))
    for name in ("Invoices to archive", "Driver roster", "Fuel prices"):
        chen.flow(name, CLEAN_UP, schedule(f"{name}, hourly", "@hourly", "UTC"), started=name == "Fuel prices")
    chen.send("POST", f"{API}/flows/{customs}/stop")
    for _ in range(repeat * 3):
        chen.run(trucks, {"truck": 7})


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not true():
        if time.monotonic() > deadline:
            raise RuntimeError("Executions do not end.")
        time.sleep(0.2)
