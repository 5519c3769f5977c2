"""What all mails of the server have in common."""

from email.utils import parseaddr

from django.conf import settings


def message_id(name: str) -> str:
    """A `Message-ID` under the sender's domain. The same for every attempt, so that a mail program shows a mail once."""
    domain = parseaddr(settings.DEFAULT_FROM_EMAIL)[1].rpartition("@")[2] or "localhost"
    return f"<{name}@{domain}>"
