"""The providers that everybody knows: how each is spoken to, where, and what its keys and models look like."""

import re
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Known:
    kind: Literal["anthropic", "openai", "openai-responses"]
    base_url: str  # "" is the SDK's own
    key_prefixes: tuple[str, ...]  # that no other provider's keys have
    models: re.Pattern[str] | None  # what a model of its own is called; None where it serves everybody's


KNOWN = {
    "anthropic": Known("anthropic", "", ("sk-ant-",), re.compile(r"claude-")),
    "openai": Known("openai-responses", "", ("sk-proj-", "sk-svcacct-"), re.compile(r"gpt-|chatgpt-|o\d")),
    "xai": Known("openai", "https://api.x.ai/v1", ("xai-",), re.compile(r"grok-")),
    "together": Known("openai", "https://api.together.xyz/v1", ("tgp_",), None),
}


def usual_provider(model: str) -> str | None:
    """Whose model a bare name is; None where that is not plain."""
    return next((name for name, known in KNOWN.items() if known.models and known.models.match(model)), None)


def owner_of_key(key: str) -> str | None:
    """Whose key this surely is; None where it could be anybody's."""
    return next((name for name, known in KNOWN.items() if key.startswith(known.key_prefixes)), None)
