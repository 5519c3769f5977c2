"""What a request may say: the SDK's own parameter types, walked as the rule.

`check(Type, raw)` gives the decoded form as typed values (ints, booleans, decimals, lists), or refuses it as Stripe does.
"""

from decimal import Decimal, InvalidOperation
from functools import cache
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from stripe._request_options import RequestOptions
from typing_extensions import get_type_hints, is_typeddict

from tests.stripe_server.errors import StripeError, refused

OPTIONS = frozenset(RequestOptions.__annotations__)  # how the SDK sends, nothing that goes over the wire


@cache
def fields(kind: type) -> dict[str, Any]:
    """The parameters of a TypedDict of the SDK, with their types."""
    own = {name: hint for name, hint in kind.__annotations__.items() if name not in OPTIONS}
    return get_type_hints(type(kind.__name__, (), {"__annotations__": own, "__module__": kind.__module__}))


def check(kind: type, raw: dict[str, Any], at: str = "") -> dict[str, Any]:
    """Typed parameters; raises a 400 for what is unknown, missing or of the wrong type."""
    known = fields(kind)
    for name in raw:
        if name not in known:
            where = _inside(at, name)
            raise refused(f"Received unknown parameter: {where}", param=where, code="parameter_unknown")
    for name in sorted(kind.__required_keys__ & set(known) - set(raw)):  # type: ignore[attr-defined]
        where = _inside(at, name)
        raise refused(f"Missing required param: {where}.", param=where, code="parameter_missing")
    return {name: _value(known[name], value, _inside(at, name)) for name, value in raw.items()}


def _inside(at: str, name: str) -> str:
    return f"{at}[{name}]" if at else name


def _value(hint: Any, raw: Any, at: str) -> Any:
    options = _options(hint)
    if isinstance(raw, str):
        return _leaf(options, raw, at)
    for option in options:
        if isinstance(raw, list) and get_origin(option) is list:
            return [_value(get_args(option)[0], each, f"{at}[{place}]") for place, each in enumerate(raw)]
        if isinstance(raw, dict) and is_typeddict(option):
            return check(option, raw, at)
        if get_origin(option) is dict:
            return _map(get_args(option)[1], raw, at)
    raise refused(f"Invalid {'array' if isinstance(raw, list) else 'object'}", param=at)


def _map(hint: Any, raw: Any, at: str) -> dict[str, Any]:
    """Free keys, as in metadata; an empty value stands for "take the key away"."""
    pairs = raw.items() if isinstance(raw, dict) else ((str(place), each) for place, each in enumerate(raw))
    return {key: each if each == "" else _value(hint, each, f"{at}[{key}]") for key, each in pairs}


def _options(hint: Any) -> list[Any]:
    if get_origin(hint) in (Union, UnionType):
        return [option for each in get_args(hint) for option in _options(each)]
    return [hint]


def _leaf(options: list[Any], raw: str, at: str) -> Any:
    words = [word for option in options if get_origin(option) is Literal for word in get_args(option)]
    if raw in words:
        return raw
    for kind, read in READERS.items():
        if kind in options:
            return read(raw, at)
    if str in options and not any(words):  # `Literal['a', 'b'] | str` is how the SDK writes an enum
        if raw == "" and "" not in words:
            raise _empty(at)
        return raw
    if any(words):
        raise refused(f"Invalid {at}: must be one of {_spoken([word for word in words if word])}", param=at)
    raise refused(f"Invalid {'array' if any(get_origin(option) is list for option in options) else 'object'}", param=at)


def _spoken(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])}, or {words[-1]}"


def _empty(at: str) -> StripeError:
    message = f"You passed an empty string for '{at}'. We assume empty values are an attempt to unset a parameter; "
    message += (
        f"however '{at}' cannot be unset. You should remove '{at}' from your request or supply a non-empty value."
    )
    return refused(message, param=at, code="parameter_invalid_empty")


def _boolean(raw: str, at: str) -> bool:
    if raw not in ("true", "false"):
        raise refused(f"Invalid boolean: {raw}", param=at)
    return raw == "true"


def _integer(raw: str, at: str) -> int:
    try:
        return int(raw)
    except ValueError:
        raise refused(f"Invalid integer: {raw}", param=at, code="parameter_invalid_integer") from None


def _decimal(raw: str, at: str) -> Decimal:
    try:
        return Decimal(raw)
    except InvalidOperation:
        raise refused(f"Invalid decimal: {raw}; must contain at maximum 12 decimal places.", param=at) from None


def _float(raw: str, at: str) -> float:
    return float(_decimal(raw, at))


READERS = {bool: _boolean, int: _integer, Decimal: _decimal, float: _float}
