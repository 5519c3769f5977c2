"""A user, as billing sees one."""

from accounts.models import User


class Customer(User):
    """The same row, under another name: who the user is belongs to accounts, what the user may is looked at and set here."""

    class Meta:
        proxy = True
        ordering = ["-created_at"]
        verbose_name = "customer"
