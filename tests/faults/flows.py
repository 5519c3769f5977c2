"""Flows of every kind, for the load: fan-out over items, merges with a wait, retries, failures, calls, our own writes."""

from tests.faults.server import Flow, Tenant

# A POST that was under way at a crash is not repeated but fails; that is handled, since a flow that only fails is paused.
ITEMS = """\
  - {{name: every, handler: blox.for_each, config: {{items: [1, 2, 3], each: post}}, peers: [post, done]}}
  - name: post
    handler: blox.http
    config: {{method: POST, url: "{url}/slow?s=0.2"}}
    peers: [pick]
    on_error: lost
  - {{name: lost, handler: blox.transform, config: {{value: "{{{{ payload.code }}}}"}}}}
  - {{name: pick, handler: blox.transform, config: {{value: "{{{{ payload.status }}}}"}}}}
  - {{name: done, handler: blox.output}}
"""
MERGES = """\
  - {{name: split, handler: blox.transform, config: {{value: 1}}, peers: [left, right, wait]}}
  - {{name: left, handler: blox.http, config: {{url: "{url}/slow?s=0.3"}}, peers: [small]}}
  - {{name: small, handler: blox.transform, config: {{value: left}}, peers: [both]}}
  - {{name: right, handler: blox.key_value, config: {{op: increment, key: n}}, peers: [both]}}
  - {{name: wait, handler: blox.delay, config: {{seconds: 1}}, peers: [both]}}
  - {{name: both, handler: blox.merge, config: {{as: object}}}}
"""
RETRIES = """\
  - name: get
    handler: blox.http
    config: {{url: "{url}/flaky/2"}}
    retry: {{max_attempts: 4, backoff: 1, max_delay: 0.5}}
    peers: [fail]
  - {{name: fail, handler: blox.fail, config: {{message: no}}, on_error: rescue}}
  - {{name: rescue, handler: blox.key_value, config: {{op: increment, key: n}}}}
"""
CHAIN = """\
  - {{name: one, handler: blox.http, config: {{url: "{url}/echo?one"}}, peers: [two]}}
  - {{name: two, handler: blox.http, config: {{method: PUT, url: "{url}/slow?s=0.2"}}, peers: [three]}}
  - {{name: three, handler: blox.http, config: {{url: "{url}/echo?three"}}, peers: [count]}}
  - {{name: count, handler: blox.key_value, config: {{op: increment, key: n}}}}
"""
CALLS = """\
  - {{name: call, handler: blox.call_flow, config: {{flow: {child}}}, peers: [count]}}
  - {{name: count, handler: blox.key_value, config: {{op: increment, key: n}}}}
"""
SHORT = '  - {{name: done, handler: blox.http, config: {{url: "{url}/echo"}}}}\n'


def mixed(tenant: Tenant, url: str) -> list[Flow]:
    """One of each kind; `url` is the outside world's."""
    flows = [tenant.flow(text.format(url=url)) for text in (ITEMS, MERGES, RETRIES, CHAIN)]
    return [*flows, tenant.flow(CALLS.format(child=flows[3].id))]
