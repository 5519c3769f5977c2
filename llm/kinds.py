"""The providers that need no setting up: where they are, how they are spoken to, what their keys look like."""

import re
from dataclasses import dataclass
from typing import Literal, TypeAlias

Wire: TypeAlias = Literal["anthropic", "openai", "openai-responses"]

# What can stand in a header at all; a server of one's own may well ask for no key.
ANY_KEY = re.compile(r"[\x21-\x7e]*")


@dataclass(frozen=True, slots=True)
class Provider:
    name: str
    title: str
    wire: Wire
    base_url: str
    key_form: re.Pattern[str]  # a whole key matches
    key_hint: str  # for people
    prices: str = ""  # its id in genai-prices; "" where no prices are known


PROVIDERS = {
    provider.name: provider
    for provider in (
        Provider(
            "anthropic",
            "Anthropic",
            "anthropic",
            "https://api.anthropic.com",
            re.compile(r"sk-ant-[\w-]{16,400}", re.ASCII),
            "sk-ant-...",
            "anthropic",
        ),
        Provider(
            "openai",
            "OpenAI",
            "openai",
            "https://api.openai.com/v1",
            re.compile(r"sk-(?!ant-)[\w-]{16,400}", re.ASCII),
            "sk-...",
            "openai",
        ),
        Provider(
            "xai", "xAI", "openai", "https://api.x.ai/v1", re.compile(r"xai-[\w-]{16,400}", re.ASCII), "xai-...", "x-ai"
        ),
        Provider(
            "together",
            "Together AI",
            "openai",
            "https://api.together.xyz/v1",
            re.compile(r"[\w-]{32,400}", re.ASCII),
            "64 hexadecimal digits, or tgp_v1_...",
            "together",
        ),
    )
}


def key_form_error(provider: str, key: str) -> str | None:
    """What is wrong with the form of `key`, for who entered it; None where nothing is. The message holds no key."""
    known = PROVIDERS.get(provider)
    if known is None:
        return None if ANY_KEY.fullmatch(key) else "The key holds a space or a character that cannot be sent."
    if known.key_form.fullmatch(key):
        return None
    return f"This does not look like a key of {known.title}: those look like {known.key_hint}"
