"""What the apps above flows must hear of from below; all are sent inside the transaction that they are about.

- `flow_started(flow)` arms triggers. `flow_stopped(flow, force)` disarms them, and a forced one cancels executions.
- `flow_deleted(flow)` comes after a forced `flow_stopped`: receivers delete what they keep of the flow. One that has more
  than can go within a request deletes some of it and returns True: the flow then stays as a tombstone that nobody sees,
  and the signal is sent again (by `flows.services.erase_flow`) until no receiver has anything left.
- `flow_imported(flow, triggers)` comes with the trigger documents of an import, as a client sent them. A receiver
  raises a `DomainError` for what it will not take, and then nothing of the import is stored.
- `flow_exported(flow)` asks for those documents: a receiver returns them as a list.
"""

from django.dispatch import Signal

flow_started = Signal()
flow_stopped = Signal()
flow_deleted = Signal()
flow_imported = Signal()
flow_exported = Signal()
