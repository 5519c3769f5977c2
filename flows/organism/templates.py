"""Placeholders: `{{ ... }}` in the texts of a config, compiled once and rendered for every delivery.

A text that is one placeholder takes on the value and keeps its type; otherwise the values become text. What a value
says is never evaluated again, whatever braces stand in it.
"""

import base64
import html
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, quote_plus

from bloxserver.core.errors import DomainError
from flows.organism.expressions import CompileError, Condition, Expression, ExpressionError, compile_expression
from flows.organism.nodes import Path, path_text
from flows.organism.scope import Scope

if TYPE_CHECKING:
    from flows.blocks.base import Block

REDACTED = "***"
CUT = "..."  # how a text that goes on is shown
LONGEST_CUT_OFF = 1_000  # characters of a secret that are looked for before it; what errors show is shorter

# A token of CEL that may hide a brace or a quote. A comment ends with its line, and before the placeholder's end.
_TOKEN = re.compile(
    r"""
    (?P<string> [bB]?[rR][bB]? (?: \"\"\".*?\"\"\" | '''.*?''' | "[^"\n]*" | '[^'\n]*' )
      | \"\"\" (?:\\.|[^\\])*? \"\"\" | ''' (?:\\.|[^\\])*? '''
      | " (?:\\.|[^"\\\n])* " | ' (?:\\.|[^'\\\n])* ' | `[^`\n]*` )
    | (?P<comment> // (?: (?!\}\}) [^\n] )* )
    | (?P<open> \{ ) | (?P<close> \} ) | (?P<quote> ["'] ) | [A-Za-z_]\w* | .
    """,
    re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class ConfigProblem:
    """What is wrong in a config: at which path, and at which character of the text (`fragment`) there."""

    path: Path
    message: str
    fragment: str = ""
    offset: int = 0


@dataclass(frozen=True, slots=True)
class _Placeholder:
    expression: Expression
    path: str  # in the config, for messages

    def value(self, scope: Mapping[str, Any]) -> Any:
        try:
            return self.expression.evaluate(scope)
        except ExpressionError as error:
            raise ExpressionError(f"{self.path}: {error.message}", source=error.source) from None


@dataclass(frozen=True, slots=True)
class _Text:
    parts: tuple[str | _Placeholder, ...]

    def render(self, scope: Mapping[str, Any]) -> Any:
        if len(self.parts) == 1 and isinstance(self.parts[0], _Placeholder):
            return self.parts[0].value(scope)
        return "".join(part if isinstance(part, str) else as_text(part.value(scope)) for part in self.parts)


def as_text(value: Any) -> str:
    """A value inside a longer text: text as it is, null as nothing, 3.0 as 3, objects and lists as compact JSON."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return str(int(value))
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)


def split(text: str) -> list[tuple[str, int, bool]]:
    """A text as (part, its offset, whether it is the inside of a placeholder). Raises `CompileError`."""
    parts: list[tuple[str, int, bool]] = []
    position = 0
    while (start := text.find("{{", position)) >= 0:
        if start > position:
            parts.append((text[position:start], position, False))
        end = _end(text, start + 2)
        parts.append((text[start + 2 : end], start + 2, True))
        position = end + 2
    if position < len(text):
        parts.append((text[position:], position, False))
    return parts


def _end(text: str, start: int) -> int:
    depth = 0
    for match in _TOKEN.finditer(text, start):
        if match["quote"]:
            raise CompileError("A quote in this placeholder is not closed.", match.start())
        if match["open"]:
            depth += 1
        elif match["close"]:
            if depth == 0 and text.startswith("}}", match.start()):
                return match.start()
            depth -= 1
            if depth < 0:
                break
    message = "This placeholder does not end: }} is missing. For two braces as text write {{ '{{' }}."
    raise CompileError(message, start - 2)


@dataclass(frozen=True, slots=True)
class CompiledConfig:
    """A listener's config, compiled. It holds no state: threads and executions share it."""

    raw: dict[str, Any]
    secret_names: frozenset[str] = frozenset()
    expressions: tuple[tuple[Path, Expression], ...] = ()
    _plan: dict[str, Any] = field(default_factory=dict)

    def render(self, scope: Mapping[str, Any], secret: Callable[[str], str]) -> dict[str, Any]:
        """The config with every placeholder's value in place, `Condition`s bound to the scope, and real secrets.

        `secret` gives the value of a stored secret by name; it raises `LookupError` or `DomainError` for one that is not
        there. If `scope` is a `Scope`, its `replaced` says afterwards what CEL could not be given as it was.
        Raises `ExpressionError`.
        """
        if not self.secret_names:
            return {key: _render(value, scope) for key, value in self._plan.items()}
        # Compiling refused every use of a secret outside of the fields that the block marks.
        values = {name: self._secret(name, secret) for name in sorted(self.secret_names)}
        with_secrets = Scope({**scope, "secrets": values})
        if isinstance(scope, Scope):
            with_secrets.replaced = scope.replaced
        try:
            return {key: _render(value, with_secrets) for key, value in self._plan.items()}
        except ExpressionError as error:
            raise ExpressionError(redact(error.message, values.values()), source=error.source) from None

    def _secret(self, name: str, secret: Callable[[str], str]) -> str:
        try:
            return secret(name)
        except (LookupError, DomainError):
            message = f'secrets.{name}: there is no secret "{name}"; add it under secrets'
            raise ExpressionError(message, source=f"secrets.{name}") from None


def _render(plan: Any, scope: Mapping[str, Any]) -> Any:
    if isinstance(plan, _Text):
        return plan.render(scope)
    if isinstance(plan, Condition):
        return plan.bind(scope)
    if isinstance(plan, dict):
        return {key: _render(value, scope) for key, value in plan.items()}
    if isinstance(plan, list):
        return [_render(item, scope) for item in plan]
    return plan


def compile_config(raw: dict[str, Any], block: "Block") -> tuple[CompiledConfig, list[ConfigProblem]]:
    """Compile every placeholder and expression of a config, and say all that is wrong with them."""
    compiler = _Compiler(block)
    plan = {key: compiler.plan(value, (key,)) for key, value in raw.items()}
    config = CompiledConfig(
        raw=raw,
        secret_names=frozenset(compiler.secret_names),
        expressions=tuple(compiler.expressions),
        _plan=plan,
    )
    return config, compiler.problems


class _Compiler:
    def __init__(self, block: "Block") -> None:
        self.block = block
        self.problems: list[ConfigProblem] = []
        self.secret_names: set[str] = set()
        self.expressions: list[tuple[Path, Expression]] = []

    def plan(self, value: Any, path: Path) -> Any:
        if path[0] in self.block.raw_fields:
            return value
        if any(_matches(path, pattern) for pattern in self.block.expression_paths):
            return self.condition(value, path)
        if isinstance(value, dict):
            return {key: self.plan(child, (*path, key)) for key, child in value.items()}
        if isinstance(value, list):
            return [self.plan(child, (*path, index)) for index, child in enumerate(value)]
        return self.text(value, path) if isinstance(value, str) and "{{" in value else value

    def condition(self, value: Any, path: Path) -> Any:
        if isinstance(value, bool):
            value = "true" if value else "false"
        if not isinstance(value, str):
            self.problems.append(
                ConfigProblem(path, 'This must be a CEL expression as text, such as "payload.total > 100".')
            )
            return value
        expression = self.compile(value, path, value, 0)
        return value if expression is None else Condition(expression)

    def text(self, value: str, path: Path) -> Any:
        try:
            parts = split(value)
        except CompileError as error:
            self.problems.append(ConfigProblem(path, error.message, value, error.offset))
            return value
        compiled: list[str | _Placeholder] = []
        for part, offset, is_placeholder in parts:
            if not is_placeholder:
                compiled.append(part)
            elif expression := self.compile(part, path, value, offset):
                compiled.append(_Placeholder(expression, path_text(path)))
        return _Text(tuple(compiled))

    def compile(self, source: str, path: Path, whole: str, at: int) -> Expression | None:
        """Compile what stands at `at` of the text `whole`."""
        stripped = source.strip()
        at += len(source) - len(source.lstrip())
        try:
            expression = compile_expression(stripped)
        except CompileError as error:
            self.problems.append(ConfigProblem(path, error.message, whole, at + error.offset))
            return None
        self.expressions.append((path, expression))
        for reference in expression.syntax.references:
            if reference.path[0] == "secrets":
                self.secret(reference.path, path, whole, at + max(reference.at, 0))
        return expression

    def secret(self, reference: tuple[str | int, ...], path: Path, whole: str, at: int) -> None:
        allowed = ", ".join(sorted(self.block.secret_fields))
        if path[0] not in self.block.secret_fields:
            where = f"{self.block.name} takes them in: {allowed}." if allowed else f"{self.block.name} takes none."
            self.problems.append(ConfigProblem(path, f"Secrets are not allowed here. {where}", whole, at))
        elif len(reference) != 2 or not isinstance(reference[1], str):
            self.problems.append(ConfigProblem(path, "A secret is read by its name: secrets.NAME.", whole, at))
        else:
            self.secret_names.add(reference[1])


def _matches(path: Path, pattern: tuple[str, ...]) -> bool:
    return len(path) == len(pattern) and all(want in ("*", step) for step, want in zip(path, pattern, strict=True))


# -- secrets on the record -----------------------------------------------------------------------------------------


def redact(value: Any, secrets: Iterable[str]) -> Any:
    """The JSON value with every one of the secrets in its texts, keys included, replaced by ***.

    Found as they are, as JSON, HTML and URLs write them, as base64 (also inside a longer text that is base64 as a whole,
    as in an Authorization header) and where "..." cuts them short. A secret of under four characters is hidden only
    where it is the whole text: elsewhere it would hide ordinary words.
    """
    given = [secret for secret in secrets if secret]
    return _Redactor(given).redacted(value) if given else value


def longest_form(secrets: Iterable[str]) -> int:
    """How many characters long a text may be that `redact` replaces: 0 without secrets."""
    return max((len(form) for secret in secrets if secret for form in _forms(secret)), default=0)


def _forms(secret: str) -> set[str]:
    plain = secret.encode("utf-8", "replace")
    safe = plain.decode("utf-8")
    return {
        secret,
        json.dumps(secret)[1:-1],
        json.dumps(secret, ensure_ascii=False)[1:-1],
        repr(secret)[1:-1],
        html.escape(secret),
        quote(safe),
        quote(safe, safe=""),
        quote_plus(safe),
        base64.b64encode(plain).decode("ascii"),
        base64.urlsafe_b64encode(plain).decode("ascii"),
    }


def _forms_inside_base64(secret: str) -> set[str]:
    """What the secret alone decides in the base64 of a longer text: three ways, by how many bytes stand before it."""
    plain = secret.encode("utf-8", "replace")
    if len(plain) < 5:  # of less, too little is left to tell it from other base64
        return set()
    encoders = (base64.b64encode, base64.urlsafe_b64encode)
    return {
        encode(bytes(before) + plain).decode("ascii")[-(-before * 8 // 6) : (before + len(plain)) * 8 // 6]
        for before in range(3)
        for encode in encoders
    }


class _Redactor:
    def __init__(self, secrets: list[str]) -> None:
        self.short = {secret for secret in secrets if len(secret) < 4}
        long = [secret for secret in secrets if len(secret) >= 4]
        self.forms = {form for secret in long for form in _forms(secret)}
        self.inside_base64 = {form for secret in long for form in _forms_inside_base64(secret)} - self.forms
        # The longest first: one secret may hold another. Beside the part of a base64 that is the secret's alone stands a
        # character that it shares with its neighbour.
        parts = [re.escape(form) for form in sorted(self.forms, key=len, reverse=True)]
        parts += [f"[\\w+/-]?{re.escape(form)}[\\w+/-]?" for form in sorted(self.inside_base64, key=len, reverse=True)]
        self.pattern = re.compile("|".join(parts), re.ASCII)

    def redacted(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {self.text(key): self.redacted(child) for key, child in value.items()}
        if isinstance(value, list):
            return [self.redacted(item) for item in value]
        return value

    def text(self, text: str) -> str:
        if text in self.short:
            return REDACTED
        if any(form in text for form in (*self.forms, *self.inside_base64)):  # ten times as fast as the pattern
            text = self.pattern.sub(REDACTED, text)
        return self.without_cut_off(text) if text.endswith(CUT) else text

    def without_cut_off(self, text: str) -> str:
        """A text that was cut short, as errors show an answer's body, may have been cut inside a secret."""
        kept = text.removesuffix(CUT)
        for form in self.forms:
            for length in range(min(len(form) - 1, len(kept), LONGEST_CUT_OFF), 3, -1):
                if kept.endswith(form[:length]):
                    return f"{kept[:-length]}{REDACTED}{CUT}"
        return text
