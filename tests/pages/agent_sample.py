"""An agent at work, for its trace to be looked at: two tools at once, and a provider that fails in the middle."""

from tests.llm.model_server import ModelServer
from tests.llm.replies import calls, fail, text
from tests.pages.sample import API, Tenant, wait_until
from tests.pages.server import Server

EMAIL = "noor@bikes.example"
AGENT = """\
organism:
  name: sales-note
listeners:
  - name: write_note
    handler: blox.agent
    agent: true
    model: openai:gpt-5-mini
    fallback: [anthropic:claude-haiku-4-5]
    prompt: Write one sentence for the sales team about this order. Look the customer up first.
    peers: [search_crm, add_up]
    next: [done]
  - name: search_crm
    description: Finds a customer
    handler: blox.transform
    config: {value: {customer: "{{ payload.name }}", since: 2019, orders: 12}}
    input: {type: object, properties: {name: {type: string}}, required: [name]}
  - {name: add_up, handler: blox.calculate}
  - {name: done, handler: blox.output}
"""
ADD_PROVIDERS = """
from llm.models import Provider
Provider.objects.create(name="OpenAI", provider="openai", kind="openai", base_url="{url}/v1")
Provider.objects.create(name="Anthropic", provider="anthropic", kind="anthropic", base_url="{url}")
"""


def run_agent(server: Server, models: ModelServer) -> None:
    """One execution of the flow "Sales note", whose owner lets operators read prompts."""
    server.manage("shell", "-c", ADD_PROVIDERS.format(url=models.url))
    models.script(
        calls(
            [("search_crm", {"name": "Ada"}), ("add_up", {"expression": "3 * 120"})],
            "Let me look.",
            tokens_in=412,
            tokens_out=58,
        ),
        fail(503),
        text("Ada, a customer since 2019, has ordered three bikes for 360.", tokens_in=530, tokens_out=24),
    )
    owner = Tenant(server.url, EMAIL)
    owner.send("PATCH", f"{API}/me", {"sharePromptsWithOperators": True})
    flow = owner.flow("Sales note", AGENT)
    execution = owner.run(flow, {"order": "A-1207", "customer": "Ada", "bikes": 3, "each": 120})
    wait_until(lambda: owner.status(flow, execution) != "running")
