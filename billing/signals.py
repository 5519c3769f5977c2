"""What billing must have done by the apps above it.

`usage_is_billed(user, now)` is sent, outside of any transaction, before a subscription ends at once or comes to another price:
whoever knows executions writes down what the open periods are over their limit by, as long as that is still billed.
"""

from django.dispatch import Signal

usage_is_billed = Signal()
