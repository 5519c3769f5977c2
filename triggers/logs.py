"""Keeps webhook tokens out of the log: whoever has a webhook's URL can fire it."""

import logging
import re

_TOKEN = re.compile(r"(/webhooks/)(?!stripe\b|clerk\b)[^/\s\"'?]{8,}")
# 256 bits in base64, as webhooks and access tokens have them: in an address that was mistyped, say. No id looks so.
_SECRET = re.compile(r"(?<![\w-])(?:blox_)?[\w-]{43}(?![\w-])", re.ASCII)


class MaskTokens(logging.Filter):
    """Rewrites `/webhooks/<token>`, and what else looks like a token, in every record's text, wherever it comes from."""

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        masked = _SECRET.sub("***", _TOKEN.sub(r"\1***", text))
        if masked != text:
            record.msg, record.args = masked, None
        return True
