"""The flow that a new one starts as. It runs as it is: it greets whoever its payload names."""

DEFAULT_ORGANISM_YAML = """\
# Listeners pass messages along: each one's output goes to its peers, and what reaches an output is the result.
# Start the flow, then run it with {"name": "Ada"}.
organism:
  name: first-flow

listeners:
  - name: greet
    description: Makes a greeting of what the trigger brought
    handler: blox.transform
    config:
      value:
        greeting: "Hello, {{ type(payload) == map && 'name' in payload ? payload.name : 'world' }}!"
        received: "{{ payload }}"
    peers: [done]

  - name: done
    description: The result of the execution
    handler: blox.output
"""
