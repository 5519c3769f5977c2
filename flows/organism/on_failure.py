"""`organism.on_failure`: who is told when an execution fails."""

import re
from email.utils import getaddresses
from urllib.parse import urlsplit

from flows.organism.checks import Section, kind_of
from flows.organism.spec import OnFailure, OnFailureKind

KINDS: tuple[OnFailureKind, ...] = ("email", "flow", "url")
MAX_TARGET = 2_000  # characters
MAX_FLOW_NAME = 100
MAX_RECIPIENTS = 10

# What a browser takes for one: https://html.spec.whatwg.org/multipage/input.html#valid-e-mail-address
_LABEL = "[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?"
_EMAIL = re.compile(rf"[a-zA-Z0-9.!#$%&'*+/=?^_`{{|}}~-]+@{_LABEL}(?:\.{_LABEL})*")


def recipients(text: str) -> list[str]:
    """The addresses of a text with commas between them; raises `ValueError` with what is wrong."""
    if "," not in text and not any(character in text for character in "<>"):
        addresses = [text.strip()]  # getaddresses would forgive blanks inside
    else:
        addresses = [address for _, address in getaddresses([text])]
    if not 1 <= len(addresses) <= MAX_RECIPIENTS:
        raise ValueError(f"This names {len(addresses)} addresses; 1 to {MAX_RECIPIENTS} are possible.")
    for address in addresses:
        if not _EMAIL.fullmatch(address):
            raise ValueError("This must be an e-mail address, or several with commas between them.")
    return addresses


def read_on_failure(settings: Section) -> OnFailure | None:
    """{email: ...}, {flow: ...} or {url: ...}; None where there is none, or what is wrong is in the findings."""
    section = settings.section("on_failure")
    if section is None:
        return None
    section.unknown_keys(KINDS, "on_failure")
    given = [kind for kind in KINDS if section.get(kind) is not None]
    if len(given) != 1:
        settings.error("on_failure", "This must have one of email, flow and url, as in {email: ops@shop.example}.")
        return None
    [kind] = given
    target = section.text(kind, limit=MAX_FLOW_NAME if kind == "flow" else MAX_TARGET)
    if target is None:
        return None
    wrong = _what_is_wrong(kind, target)
    if wrong:
        section.error(kind, wrong)
        return None
    return OnFailure(kind, target.strip() if kind == "email" else target)


def _what_is_wrong(kind: OnFailureKind, target: str) -> str | None:
    if "{{" in target:
        return "Placeholders are evaluated in config only: write the value out."
    if kind == "flow":
        return None if target.strip() else f"This must be the name or the id of a flow, not {kind_of(None)}."
    if kind == "url":
        return _what_is_wrong_with_url(target)
    try:
        recipients(target)
    except ValueError as error:
        return str(error)
    return None


def _what_is_wrong_with_url(url: str) -> str | None:
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - raises for one that is none
    except ValueError as error:
        return f"This is not a URL: {error}."
    if parts.scheme not in ("http", "https") or not parts.hostname or any(c.isspace() or c < " " for c in url):
        return "This must be a whole URL, as in https://shop.example/failed."
    if parts.username is not None or parts.password is not None:
        return "A URL must not hold a user name or password: what is sent is signed instead (see docs/language.md)."
    return None
