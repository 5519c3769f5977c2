"""What billing must have done by the apps above it.

`subscription_ends(user, now)` is sent, outside of any transaction, before a subscription is ended at once: whoever knows
executions writes down what the open periods are over their limit by, since the last invoice is made then.
"""

from django.dispatch import Signal

subscription_ends = Signal()
