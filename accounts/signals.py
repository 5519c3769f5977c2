"""What the apps above accounts must hear of from below.

`user_deleted(user)` is sent inside the transaction that leaves a tombstone: receivers delete at once what must not outlive
the person, such as keys that cost them money.

`tier_changed(user)` is sent inside the transaction that puts a user on another tier.
"""

from django.dispatch import Signal

user_deleted = Signal()
tier_changed = Signal()
