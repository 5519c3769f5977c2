"""Whether a provider takes a key: one cheap call, without the SDKs."""

import logging

from bloxserver.core.safe_http import GuardedClient, GuardedResponse, InvalidRequest, RequestTimeout, SafeHttpError
from llm.errors import Failure, ProviderFailed
from llm.exchange import Endpoint
from llm.kinds import PROVIDERS

logger = logging.getLogger(__name__)

TIMEOUT = 10.0  # seconds
MAX_BYTES = 2 * 1024 * 1024  # some list hundreds of models, at length
ANTHROPIC_VERSION = "2023-06-01"

_REFUSED = frozenset({401, 402, 403})


def base_url_of(endpoint: Endpoint) -> str:
    """Where it is, without a slash at the end. Raises `ProviderFailed` where nobody has said."""
    known = PROVIDERS.get(endpoint.provider)
    url = endpoint.base_url or (known.base_url if known is not None else "")
    if not url:
        raise ProviderFailed(Failure.UNAVAILABLE, f"The provider {endpoint.provider} has no base URL; give it one.")
    url = url.rstrip("/")
    # Anthropic's SDK says /v1 itself, and people who know OpenAI's write it, too.
    return url.removesuffix("/v1") if endpoint.kind == "anthropic" else url


def is_operators_address(endpoint: Endpoint) -> bool:
    """Whether tenants are not to be told where it is: all but a provider's own address for a user's own key."""
    return not endpoint.own_key or bool(endpoint.base_url)


async def check_key(endpoint: Endpoint) -> None:
    """Ask for the provider's models with the endpoint's key. Raises `ProviderFailed`: `KEY_REFUSED` where it is refused."""
    client = GuardedClient()
    try:
        response = await client.request(
            "GET", _models_url(endpoint), headers=_headers(endpoint), timeout=TIMEOUT, max_bytes=MAX_BYTES,
            follow_redirects=False,
        )  # fmt: skip
    except InvalidRequest as error:
        raise ProviderFailed(Failure.REQUEST_REFUSED, f"{endpoint.provider} could not be asked: {error}") from None
    except RequestTimeout:
        message = f"{endpoint.provider} did not answer within {TIMEOUT:g} seconds."
        raise ProviderFailed(Failure.TIMEOUT, message) from None
    except SafeHttpError as error:
        logger.warning("endpoint=%s could not be asked for its models: %s", endpoint.id, error)
        # A user checks a key of their own, which may go to the operator's gateway; an operator, the pool's.
        why = "it cannot be reached at the moment." if endpoint.own_key and endpoint.base_url else error
        raise ProviderFailed(Failure.UNAVAILABLE, f"{endpoint.provider} could not be asked: {why}") from None
    finally:
        await client.aclose()
    _judge(endpoint, response)


def _models_url(endpoint: Endpoint) -> str:
    return base_url_of(endpoint) + ("/v1/models?limit=1" if endpoint.kind == "anthropic" else "/models")


def _headers(endpoint: Endpoint) -> dict[str, str]:
    if endpoint.kind == "anthropic":
        return {"x-api-key": endpoint.api_key, "anthropic-version": ANTHROPIC_VERSION}
    return {"authorization": f"Bearer {endpoint.api_key}"} if endpoint.api_key else {}


def _judge(endpoint: Endpoint, response: GuardedResponse) -> None:
    """Raises `ProviderFailed` unless the answer says that the key is good. What it says besides is not passed on."""
    if response.status < 300 or response.status == 404:  # 404: no list of models there, but nobody was turned away
        return
    answered = f"{endpoint.provider} answered with status {response.status}"
    if response.status in _REFUSED or (response.status == 400 and b"API key" in response.content):  # 400: xAI
        raise ProviderFailed(Failure.KEY_REFUSED, f"{endpoint.provider} refused the key (status {response.status}).")
    if response.status == 429:
        raise ProviderFailed(Failure.RATE_LIMITED, f"{answered}: too many requests; try again in a minute.")
    raise ProviderFailed(Failure.UNAVAILABLE, f"{answered} when the key was checked; try again later.")
