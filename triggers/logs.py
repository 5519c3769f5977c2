"""Keeps webhook tokens out of the log: whoever has a webhook's URL can fire it."""

import logging
import re

_TOKEN = re.compile(r"(/webhooks/)(?!stripe\b|clerk\b)[^/\s\"'?]{8,}")


class MaskTokens(logging.Filter):
    """Rewrites `/webhooks/<token>` in every record's text, wherever it comes from."""

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        if "/webhooks/" in text:
            record.msg, record.args = _TOKEN.sub(r"\1***", text), None
        return True
