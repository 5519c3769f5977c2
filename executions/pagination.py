"""Pages of executions: by number like every list, or onward by cursor, which costs the same however far it goes."""

from bloxserver.api.long_lists import CursorPagination
from bloxserver.api.pagination import ExecutionPagination


class ExecutionHistoryPagination(CursorPagination, ExecutionPagination):
    """Of a `History`."""

    exact_where = "False: there are `total` or more. Exact always where only flow and status are filtered by."
    next_cursor_help = (
        "The `cursor` of what follows; null at the end. A page that was filtered by `triggerType` or `search` may "
        "have few items or none, and still more behind it."
    )
