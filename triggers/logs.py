"""Keeps the tokens of public URLs out of the log: whoever has one can fire the webhook, or answer the approval."""

import logging
import re

_TOKEN = re.compile(r"(/webhooks/(?!stripe\b|clerk\b)|/approvals/)[^/\s\"'?]{8,}")
# 256 bits in base64, as webhooks and access tokens have them: in an address that was mistyped, say. No id looks so.
_SECRET = re.compile(r"(?<![\w-])(?:blox_)?[\w-]{43}(?![\w-])", re.ASCII)


class MaskTokens(logging.Filter):
    """Rewrites `/webhooks/<token>`, `/approvals/<token>`, and what else looks like a token, in every record's text."""

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        masked = _SECRET.sub("***", _TOKEN.sub(r"\1***", text))
        if masked != text:
            record.msg, record.args = masked, None
        return True
