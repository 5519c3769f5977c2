"""The one door through which a tenant's requests leave: an HTTP client that reaches no private address.

Every connection, a redirect's too, is made by `guarded_transport`. Nothing comes from the environment, no cookie is
kept, and the answer's size and the whole time are bounded.
"""

import asyncio
import json as json_library
import re
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from typing import Any, Final

import httpx2

from bloxserver.core.addresses import AllowList
from bloxserver.core.guarded_transport import (
    CONNECT_TIMEOUT,
    BlockedAddress,
    GuardedTransport,
    InvalidRequest,
    Resolver,
    SafeHttpError,
    check_url,
)
from bloxserver.core.loops import PerLoop

__all__ = [
    "BlockedAddress",
    "GuardedClient",
    "GuardedResponse",
    "GuardedTransport",
    "InvalidRequest",
    "NotSent",
    "RequestFailed",
    "RequestTimeout",
    "ResponseTooLarge",
    "SafeHttpError",
    "TooManyRedirects",
    "close_shared_client",
    "shared_client",
]

MAX_RESPONSE_BYTES = 5 * 1024 * 1024
MAX_REDIRECTS = 3
USER_AGENT = "BloxServer"

UNSET: Final[Any] = object()  # no body, where None is the JSON value null

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, 5.6.2
# These frame the message or steer the connection, so they are the client's (RFC 9110, 7.6.1; RFC 9112, 6).
_CLIENTS_OWN_HEADERS = frozenset(
    {
        "host",
        "content-length",
        "transfer-encoding",
        "connection",
        "keep-alive",
        "upgrade",
        "te",
        "trailer",
        "proxy-connection",
    }
)
# What follows a redirect to another origin. An author's own header may well be a credential (X-Api-Key), so only
# those that can't be are sent on; RFC 9110, 15.4 asks for it where a header is known to carry one.
_CROSS_ORIGIN_HEADERS = frozenset(
    {
        "accept",
        "accept-encoding",
        "accept-language",
        "content-type",
        "content-language",
        "idempotency-key",
        "user-agent",
    }
)
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


class NotSent(SafeHttpError):
    """No connection could be made (DNS, TCP or TLS): the request surely had no effect."""


class RequestFailed(SafeHttpError):
    """It broke off after the request may have been sent: whether it had an effect is unknown."""


class TooManyRedirects(RequestFailed):
    """The server redirected more often than is followed."""


class RequestTimeout(SafeHttpError):
    """No whole answer came in time; whether the request had an effect is unknown."""


class ResponseTooLarge(SafeHttpError):
    """The answer, decompressed, is larger than is read."""


@dataclass(frozen=True, slots=True)
class GuardedResponse:
    """An answer, read to its end and decompressed. Header names are lower case; repeated ones are joined by ", "."""

    status: int
    headers: dict[str, str]
    content: bytes
    url: str  # the last one, after redirects
    elapsed_ms: int


@dataclass(slots=True)
class _Progress:
    """How far a request got: before the first byte went out, a failure surely had no effect."""

    sent: bool = False
    target: str = "the server"

    async def trace(self, event: str, info: dict[str, Any]) -> None:
        """httpcore2's trace extension."""
        if event == "connection.connect_tcp.started":
            self.target = f"{info['host']}:{info['port']}"
        if event.endswith("send_request_headers.started"):
            self.sent = True


class GuardedClient:
    """An HTTP client for requests whose URL is a tenant's. Bound to the event loop that first uses it."""

    def __init__(self, *, resolver: Resolver | None = None, allow: AllowList | None = None) -> None:
        """`resolver` gives a host's addresses (default: the system's); `allow` (default: the setting's) what is let through."""
        self._transport = GuardedTransport(resolver=resolver, allow=allow)

    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, Any] | None = None,
        content: bytes | str | None = None,
        json: Any = UNSET,
        data: Mapping[str, Any] | None = None,
        timeout: float = 30.0,
        follow_redirects: bool = True,
        max_bytes: int = MAX_RESPONSE_BYTES,
        max_redirects: int = MAX_REDIRECTS,
    ) -> GuardedResponse:
        """Send a request and read its answer whole.

        `params` join those of the URL. At most one of `content`, `json` (any JSON value, None too) and `data` (a form)
        is the body. `timeout` is in seconds, for everything together; `max_bytes` counts decompressed ones. Whatever the
        status, an answer is returned. Raises `InvalidRequest`, `BlockedAddress`, `NotSent`, `RequestFailed`,
        `RequestTimeout`, `ResponseTooLarge`.
        """
        started = time.monotonic()
        request = _build(method, url, headers or {}, params, content, json, data)
        progress = _Progress()
        with _translated(progress, timeout):
            async with asyncio.timeout(timeout):
                for _ in range(max_redirects + 1):
                    response, body = await self._exchange(request, progress, max_bytes, follow_redirects)
                    if body is not None:
                        elapsed_ms = round((time.monotonic() - started) * 1000)
                        return GuardedResponse(
                            response.status_code, dict(response.headers.items()), body, str(request.url), elapsed_ms
                        )
                    request = _redirected(request, response)
        raise TooManyRedirects(
            f"The server redirected more than {max_redirects} times, last to {_origin(request.url)}."
        )

    async def _exchange(
        self, request: httpx2.Request, progress: _Progress, max_bytes: int, follow_redirects: bool
    ) -> tuple[httpx2.Response, bytes | None]:
        """One request and its answer; the body is None where a redirect is to be followed."""
        request.extensions = {
            "timeout": {"connect": CONNECT_TIMEOUT, "pool": CONNECT_TIMEOUT, "read": None, "write": None},
            "trace": progress.trace,
        }
        response = await self._transport.handle_async_request(request)
        response.request = request
        try:
            if follow_redirects and response.status_code in _REDIRECTS and "location" in response.headers:
                return response, None
            return response, await _read(response.aiter_bytes(), max_bytes)
        finally:
            await response.aclose()

    async def aclose(self) -> None:
        """Close its connections."""
        await self._transport.aclose()


async def _read(chunks: AsyncIterator[bytes], max_bytes: int) -> bytes:
    """The decoder gives chunks of at most 1 MiB, so a bomb is noticed before it is large."""
    body = bytearray()
    async with aclosing(chunks) as stream:  # type: ignore[type-var]
        async for chunk in stream:
            if len(body) + len(chunk) > max_bytes:
                raise ResponseTooLarge(f"The response is larger than {max_bytes:,} bytes.")
            body += chunk
    return bytes(body)


@contextmanager
def _translated(progress: _Progress, timeout: float) -> Iterator[None]:
    """The library's errors as ours, by whether anything was sent: of an earlier hop too, which may have had an effect."""
    try:
        yield
    except (httpx2.InvalidURL, httpx2.UnsupportedProtocol, httpx2.LocalProtocolError) as error:
        raise InvalidRequest(f"The request can't be sent: {error}.") from error
    except TimeoutError as error:
        message = f"No whole answer came within {timeout:g} seconds."
        raise (RequestTimeout(message) if progress.sent else NotSent(f"{message} Nothing was sent.")) from error
    except httpx2.HTTPError as error:
        reason = str(error) or type(error).__name__
        if progress.sent:
            raise RequestFailed(f"The request was sent, but no whole answer came: {reason}.") from error
        raise NotSent(f"No connection to {progress.target} could be made: {reason.rstrip('.')}.") from error


def _build(
    method: str,
    url: str,
    headers: Mapping[str, str],
    params: Mapping[str, Any] | None,
    content: bytes | str | None,
    json: Any,
    data: Mapping[str, Any] | None,
) -> httpx2.Request:
    """Raises `InvalidRequest`."""
    if not _TOKEN.fullmatch(method) or method.upper() in ("CONNECT", "TRACE"):
        raise InvalidRequest(f"The method {method[:20]!r} can't be sent.")
    sent_headers = httpx2.Headers({"accept": "*/*", "accept-encoding": "gzip, deflate", "user-agent": USER_AGENT})
    sent_headers.update(checked_headers(headers))
    try:
        target = httpx2.URL(url)
        check_url(target)
        if params:
            target = target.copy_merge_params(dict(params))
        if json is not UNSET:
            content = json_library.dumps(json, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
            sent_headers.setdefault("content-type", "application/json")
        return httpx2.Request(method.upper(), target, headers=sent_headers, content=content, data=data)
    except httpx2.InvalidURL as error:
        raise InvalidRequest(f"The URL is not valid: {error}.") from None
    except UnicodeEncodeError:
        raise InvalidRequest("The request holds half a surrogate pair, which is no text.") from None
    except (TypeError, ValueError) as error:
        raise InvalidRequest(f"The request can't be sent: {error}.") from None


def checked_headers(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    """Headers as bytes. Raises `InvalidRequest` for what would end a header early, or is the client's own to set."""
    checked = []
    for name, value in headers.items():
        if not _TOKEN.fullmatch(name):
            raise InvalidRequest(f"The header name {name[:60]!r} is not valid.")
        if name.lower() in _CLIENTS_OWN_HEADERS:
            raise InvalidRequest(f"The header {name} is set by the client itself; leave it out.")
        if any(character in value for character in "\r\n\0"):
            raise InvalidRequest(f"The value of the header {name} holds a line break or NUL.")
        try:
            checked.append((name.encode("ascii"), value.strip(" \t").encode("latin-1")))
        except UnicodeEncodeError:
            raise InvalidRequest(f"The value of the header {name} holds a character outside Latin-1.") from None
    return checked


def _redirected(request: httpx2.Request, response: httpx2.Response) -> httpx2.Request:
    """The request that follows a redirect (RFC 9110, 15.4). Raises `InvalidRequest`."""
    target = request.url.join(response.headers["location"])
    if target.scheme not in ("http", "https") or target.userinfo or not target.host:
        raise InvalidRequest("The server redirected to something that is not a plain http or https URL.")
    headers = httpx2.Headers([(name, value) for name, value in request.headers.raw if name.lower() != b"host"])
    if _origin(target) != _origin(request.url):
        headers = httpx2.Headers([pair for pair in headers.multi_items() if pair[0].lower() in _CROSS_ORIGIN_HEADERS])
    method, content = request.method, request.content
    becomes_get = response.status_code == 303 and method != "HEAD"
    if becomes_get or (response.status_code in (301, 302) and method == "POST"):
        method, content = "GET", b""
    if not content:
        headers = httpx2.Headers([pair for pair in headers.multi_items() if not pair[0].lower().startswith("content-")])
    return httpx2.Request(method, target, headers=headers, content=content or None)


def _origin(url: httpx2.URL) -> str:
    port = url.port or {"http": 80, "https": 443}.get(url.scheme)
    return f"{url.scheme}://{url.host}:{port}"


_clients: PerLoop[GuardedClient] = PerLoop(GuardedClient)
shared_client = _clients.get  # the client of the running event loop


async def close_shared_client() -> None:
    """Close the running loop's client; whoever made the loop calls it before the loop ends."""
    if (client := _clients.pop()) is not None:
        await client.aclose()
