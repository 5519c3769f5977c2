"""`blox.http`: one HTTP request."""

import base64
import binascii
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from email.message import Message
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeAlias
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from pydantic import BaseModel, BeforeValidator, Field, model_validator

from bloxserver.core import json_text
from flows.blocks.base import JSON, Block, BlockConfig, BlockError, Context, Effects

if TYPE_CHECKING:
    from bloxserver.core.safe_http import GuardedResponse

REPEATABLE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})  # idempotent (RFC 9110, 9.2.2)
RETRYABLE_STATUSES = frozenset({408, 425, 429, *range(500, 600)})
REFUSED_STATUSES = frozenset({429, 503})  # the server says that it did not do it
LONGEST_REQUEST = 21_600.0  # seconds; the listener's timeout ends it long before
SHOWN_BODY = 500  # characters of an unexpected answer's body in the error

Scalar: TypeAlias = str | bool | int | float
Fields: TypeAlias = dict[str, Scalar | list[Scalar] | None]


def _upper(value: Any) -> Any:
    return value.upper() if isinstance(value, str) else value


class Basic(BlockConfig):
    type: Literal["basic"]
    username: str = Field(pattern=r"^[^:]*$", description="Without a colon (RFC 7617).")
    password: str


class Bearer(BlockConfig):
    type: Literal["bearer"]
    token: str


class Binary(BaseModel):
    """Bytes, in the shape in which this block and webhooks give them; `filename` and `size` may be there too."""

    base64: str = Field(description="The bytes, in base64.")
    contentType: str = Field("application/octet-stream", description="The Content-Type to send them with.")


class HttpConfig(BlockConfig):
    method: Annotated[Literal["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"], BeforeValidator(_upper)] = (
        Field(
            "GET", description="POST and PATCH are not repeated when their outcome is unknown, unless `retry` is given."
        )
    )
    url: str = Field(min_length=1, max_length=8192, description="http:// or https://, without a user name in it.")
    headers: dict[str, Scalar] = Field({}, description="Request headers.")
    query: Fields = Field(
        {}, description="Query parameters, added to the URL's own; a list repeats one, null leaves it out."
    )
    json_: JSON = Field(None, alias="json", description="Body: this value as JSON.")
    form: Fields = Field({}, description="Body: form fields, URL-encoded; a list repeats one, null leaves it out.")
    body: str | Binary = Field("", description="Body: a text, or bytes as `{base64, contentType}`.")
    auth: Annotated[Basic | Bearer, Field(discriminator="type")] | None = Field(
        None, description="Credentials, as a rule from `secrets`."
    )
    expect: list[Annotated[int, Field(ge=100, le=599)]] = Field(
        [], description="The statuses that are a success; 200 to 299 when left out. Any other is an error."
    )
    follow_redirects: bool = Field(
        True, description="Up to three; credentials and own headers stay with the first origin."
    )

    @model_validator(mode="before")
    @classmethod
    def _one_body(cls, data: Any) -> Any:
        if isinstance(data, dict):
            given = [name for name in ("json", "form", "body") if name in data]
            if len(given) > 1:
                raise ValueError(f"give only one of json, form and body, not {' and '.join(given)}")
        return data

    @model_validator(mode="after")
    def _one_authorization(self) -> "HttpConfig":
        if self.auth is not None and any(name.lower() == "authorization" for name in self.headers):
            raise ValueError("give auth or an Authorization header, not both")
        return self


class Http(Block):
    name = "blox.http"
    title = "HTTP request"
    description = (
        "Sends a request and gives {status, headers, body, url, elapsedMs}. Header names are lower case. JSON bodies"
        " are parsed, other text is text, bytes are {base64, contentType, size}, an empty body is null; at most 5 MiB."
        " `url` is where the answer came from, without the parameters of `query`. Tried three times when left without"
        " `retry`, a POST or PATCH only when it surely had no effect. Sends the step's Idempotency-Key."
    )
    category = "network"
    Config = HttpConfig
    secret_fields: ClassVar[frozenset[str]] = frozenset({"headers", "auth", "query", "json", "form", "body"})
    default_attempts: ClassVar[int] = 3
    example: ClassVar[str] = """\
- name: fetch_order
  handler: blox.http
  config:
    url: "https://shop.example/orders/{{ payload.id }}"
    query: {expand: lines}
    auth: {type: bearer, token: "{{ secrets.SHOP_TOKEN }}"}
    expect: [200, 404]
  retry: {max_attempts: 4, backoff: 1.5, max_delay: 60}
  timeout: 10
  peers: [is_large]
"""

    def effects(self, config: Mapping[str, Any]) -> Effects:
        method = config.get("method", "GET")
        # A placeholder may turn out to be a POST.
        repeatable = isinstance(method, str) and method.upper() in REPEATABLE_METHODS
        return Effects.REPEATABLE if repeatable else Effects.ONCE

    async def run(self, ctx: Context, config: HttpConfig, payload: JSON) -> JSON:
        with _as_block_errors():
            response = await ctx.http.request(
                config.method,
                config.url,
                headers=_headers(config, ctx.idempotency_key),
                params=_present(config.query),
                timeout=LONGEST_REQUEST,
                follow_redirects=config.follow_redirects,
                **_body(config),
            )
        url = _without(response.url, config.query)
        content_type = response.headers.get("content-type", "")
        body = None if config.method == "HEAD" else parse_body(response.content, content_type)
        if not _expected(response.status, config.expect):
            raise _unexpected(config.method, url, response, body)
        return {
            "status": response.status,
            "headers": response.headers,
            "body": body,
            "url": url,
            "elapsedMs": response.elapsed_ms,
        }


# The request. ----------------------------------------------------------------------------------------------------
def _headers(config: HttpConfig, idempotency_key: str) -> dict[str, str]:
    headers = {name: _text(value) for name, value in config.headers.items()}
    given = {name.lower() for name in headers}
    if "idempotency-key" not in given:
        headers["Idempotency-Key"] = idempotency_key
    if "content-type" not in given and (content_type := _content_type(config)):
        headers["Content-Type"] = content_type
    if isinstance(config.auth, Bearer):
        headers["Authorization"] = f"Bearer {config.auth.token}"
    elif isinstance(config.auth, Basic):
        credentials = f"{config.auth.username}:{config.auth.password}".encode()
        headers["Authorization"] = f"Basic {base64.b64encode(credentials).decode()}"
    return headers


def _content_type(config: HttpConfig) -> str | None:
    if "body" not in config.model_fields_set:
        return None  # the client knows what it makes of json and form
    return config.body.contentType if isinstance(config.body, Binary) else "text/plain; charset=utf-8"


def _body(config: HttpConfig) -> dict[str, Any]:
    if "json_" in config.model_fields_set:
        return {"json": config.json_}
    if "form" in config.model_fields_set:
        return {"data": _present(config.form)}
    if isinstance(config.body, Binary):
        try:
            return {"content": base64.b64decode(config.body.base64, validate=True)}
        except (binascii.Error, ValueError) as error:
            raise BlockError(
                f"body.base64 is not valid base64: {error}.", code="invalid_request", retryable=False
            ) from None
    return {"content": config.body} if config.body else {}


def _present(fields: Fields) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _text(value: Scalar) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


@contextmanager
def _as_block_errors() -> Iterator[None]:
    # Imported here: httpx2 takes a third of a second, and whoever only reads organisms never sends anything.
    from bloxserver.core import safe_http

    try:
        yield
    except safe_http.NotSent as error:
        raise BlockError(str(error), code="http_not_sent", repeat_is_safe=True) from error
    except safe_http.BlockedAddress as error:
        raise BlockError(str(error), code="address_blocked", retryable=False) from error
    except safe_http.ResponseTooLarge as error:
        raise BlockError(str(error), code="response_too_large", retryable=False) from error
    except safe_http.TooManyRedirects as error:
        raise BlockError(str(error), code="too_many_redirects", retryable=False) from error
    except safe_http.InvalidRequest as error:
        raise BlockError(str(error), code="invalid_request", retryable=False) from error
    except safe_http.RequestTimeout as error:
        raise BlockError(str(error), code="http_timeout") from error
    except safe_http.SafeHttpError as error:
        raise BlockError(str(error), code="http_failed") from error


# The answer. -----------------------------------------------------------------------------------------------------
def parse_body(content: bytes, content_type: str) -> JSON:
    """An answer's body as a value, by its content type; what calls itself JSON and isn't is kept as text."""
    if not content:
        return None
    header = Message()
    header["content-type"] = content_type or "application/octet-stream"
    kind = header.get_content_type()
    if kind == "application/json" or kind.endswith("+json"):
        try:
            return json_text.strict_loads(content)
        except ValueError:
            return _decode(content, "utf-8")
    charset = header.get_content_charset()
    if (
        charset
        or kind.startswith("text/")
        or kind.endswith(("/xml", "+xml", "/javascript", "/x-www-form-urlencoded", "yaml"))
    ):
        return _decode(content, charset or "utf-8")
    if not content_type:
        try:
            return content.decode()
        except UnicodeDecodeError:
            pass
    return {"base64": base64.b64encode(content).decode(), "contentType": kind, "size": len(content)}


def _decode(content: bytes, charset: str) -> str:
    try:
        return content.decode(charset, errors="replace")
    except LookupError:
        return content.decode("utf-8", errors="replace")


def _without(url: str, query: Fields) -> str:
    """The URL without what `query` added, which may hold secrets."""
    parts = urlsplit(url)
    kept = [(name, value) for name, value in parse_qsl(parts.query, keep_blank_values=True) if name not in query]
    return urlunsplit(parts._replace(query=urlencode(kept) if query else parts.query))


def _expected(status: int, expect: list[int]) -> bool:
    return status in expect if expect else 200 <= status <= 299


def _unexpected(method: str, url: str, response: "GuardedResponse", body: JSON) -> BlockError:
    status = response.status
    answer = f"{method} {url.partition('?')[0]} answered {status} {_phrase(status)}".rstrip()
    shown = body if isinstance(body, str) else json.dumps(body, ensure_ascii=False) if body is not None else ""
    if isinstance(body, dict) and set(body) == {"base64", "contentType", "size"}:
        shown = f"{body['size']} bytes of {body['contentType']}"
    if len(shown) > SHOWN_BODY:
        shown = f"{shown[:SHOWN_BODY]}..."  # so marked, what a secret was cut down to is found and hidden as well
    return BlockError(
        f"{answer}: {shown}" if shown else f"{answer}.",
        code="unexpected_status",
        retryable=status in RETRYABLE_STATUSES,
        repeat_is_safe=status in REFUSED_STATUSES,
        retry_after=retry_after(response.headers.get("retry-after"), datetime.now(UTC)),
    )


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


def retry_after(header: str | None, now: datetime) -> float | None:
    """Seconds to wait by a Retry-After header (RFC 9110, 10.2.3), a number or a date; None without a valid one."""
    if header is None:
        return None
    if header.isascii() and header.isdigit():
        return float(header[:10])
    try:
        moment = parsedate_to_datetime(header)
    except (ValueError, TypeError, OverflowError):
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max((moment - now).total_seconds(), 0.0)
