"""What the libraries raise, as a `ProviderFailed` that says what it means and holds no key."""

import json
import logging
import re
from collections.abc import Iterator

import anthropic
import httpx2
import openai
from pydantic import ValidationError
from pydantic_ai import exceptions

from bloxserver.core.guarded_transport import SafeHttpError
from llm.errors import Failure, ProviderFailed
from llm.exchange import Endpoint
from llm.wire.http import AnswerTooLarge

logger = logging.getLogger(__name__)

LONGEST = 300  # characters of what a provider says that are passed on

_CONTENT_CODES = frozenset({"content_filter", "content_policy_violation", "moderation_blocked", "safety_error"})
_CONTENT_WORDS = ("content management policy", "content filtering policy", "usage policies", "safety system")
_TOO_LONG_WORDS = ("prompt is too long", "context length", "context window", "maximum prompt length", "too many tokens")
_MODEL_WORDS = re.compile(
    r"model\b.{0,200}\b(not exist|not found|unknown|not supported)|(unknown|invalid) model", re.DOTALL
)
_KEY_WORDS = ("incorrect api key", "invalid api key", "api key is invalid", "credit balance is too low")
_KEY = re.compile(r"\b(?:sk|xai|tgp|gsk|key)[-_][\w*.-]{6,}", re.ASCII)

# The first that fits is taken.
_CATEGORIES: tuple[tuple[type[Exception], Failure], ...] = (
    (exceptions.ModelRateLimitError, Failure.RATE_LIMITED),
    (exceptions.ModelQuotaExceededError, Failure.KEY_REFUSED),
    (exceptions.ModelAuthenticationError, Failure.KEY_REFUSED),
    (exceptions.ModelNotFoundError, Failure.MODEL_UNKNOWN),
    (exceptions.ModelContextWindowExceededError, Failure.CONTEXT_TOO_LONG),
    (exceptions.ModelRequestRejectedError, Failure.REQUEST_REFUSED),
    (exceptions.ModelTimeoutError, Failure.TIMEOUT),
    (exceptions.ModelRequestTimeout, Failure.TIMEOUT),
    (exceptions.ModelConnectionError, Failure.UNAVAILABLE),
    (exceptions.ModelUnavailableError, Failure.UNAVAILABLE),
    (exceptions.ModelServerError, Failure.UNAVAILABLE),
)
_NO_ANSWERS = (
    exceptions.UnexpectedModelBehavior,
    ValidationError,
    json.JSONDecodeError,
    UnicodeDecodeError,
    openai.APIResponseValidationError,
    anthropic.APIResponseValidationError,
)


def failure_of(error: Exception, endpoint: Endpoint, timeout: float, silence: float) -> ProviderFailed:
    """What `error` means. `timeout` (seconds) is the one that a `TimeoutError` is of, `silence` that of a `ReadTimeout`."""
    chain = list(_chain(error))
    for each in chain:
        if isinstance(each, UnicodeEncodeError | httpx2.LocalProtocolError):  # its text holds headers
            message = f"The request to {endpoint.provider}, or the key, holds a character that cannot be sent."
            return ProviderFailed(Failure.REQUEST_REFUSED, message)
        if isinstance(each, SafeHttpError):  # the endpoint's address is at fault, so another may do
            return ProviderFailed(Failure.UNAVAILABLE, f"{endpoint.provider} could not be asked: {each}")
        if isinstance(each, httpx2.ReadTimeout) and silence < timeout:
            return ProviderFailed(Failure.TIMEOUT, f"{endpoint.provider} said nothing for {silence:g} seconds.")
        if isinstance(each, AnswerTooLarge):
            return ProviderFailed(Failure.BAD_ANSWER, f"{endpoint.provider} gave no answer of a model: {each}.")
    if isinstance(error, TimeoutError):
        return ProviderFailed(Failure.TIMEOUT, f"{endpoint.provider} did not answer within {timeout:g} seconds.")
    if any(isinstance(each, _NO_ANSWERS) for each in chain):
        return _bad_answer(endpoint)
    if isinstance(error, exceptions.ModelAPIError):
        return _reported(error, endpoint, timeout)
    if isinstance(error, exceptions.UserError):
        return ProviderFailed(
            Failure.REQUEST_REFUSED, _clean(f"{endpoint.model} cannot be asked this: {error}", endpoint)
        )
    # An answer can be wrong in ways that the libraries stumble over. Its text is a tenant's, so only the kind is logged.
    logger.warning("endpoint=%s answered with what %s was raised over", endpoint.id, type(error).__qualname__)
    return _bad_answer(endpoint)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _bad_answer(endpoint: Endpoint) -> ProviderFailed:
    return ProviderFailed(
        Failure.BAD_ANSWER,
        f"{endpoint.provider} answered with something that is no answer of a model. Is its base URL right?",
    )


def _reported(error: exceptions.ModelAPIError, endpoint: Endpoint, timeout: float) -> ProviderFailed:
    """A failure that the provider told of, or the network."""
    said = _clean(_said(error), endpoint)
    failure = _kind(error, said.lower())
    status = error.status_code if isinstance(error, exceptions.ModelHTTPError) else None
    if failure is Failure.KEY_REFUSED:  # without the provider's words, which quote the key
        no_credit = isinstance(error, exceptions.ModelQuotaExceededError)
        why = "the account has no credit left" if no_credit else "it is not valid there, or may not do this"
        return ProviderFailed(failure, f"{endpoint.provider} refused the key (status {status}): {why}.")
    return ProviderFailed(failure, _message(failure, endpoint, status, said, timeout), retry_after=error.retry_after)


def _kind(error: exceptions.ModelAPIError, said: str) -> Failure:
    """By the library's category, and where that is coarse, by the provider's code and words."""
    failure = next((failure for kind, failure in _CATEGORIES if isinstance(error, kind)), None)
    status = error.status_code if isinstance(error, exceptions.ModelHTTPError) else None
    if error.provider_error_code in _CONTENT_CODES or error.provider_error_type in _CONTENT_CODES:
        return Failure.CONTENT_REFUSED
    if failure in (Failure.REQUEST_REFUSED, None) and status is not None and 400 <= status < 500:
        return _by_words(status, said)
    return failure or Failure.UNAVAILABLE


def _by_words(status: int, said: str) -> Failure:
    if status == 408:
        return Failure.TIMEOUT
    if status == 413 or any(words in said for words in _TOO_LONG_WORDS):
        return Failure.CONTEXT_TOO_LONG
    if any(words in said for words in _CONTENT_WORDS):
        return Failure.CONTENT_REFUSED
    if any(words in said for words in _KEY_WORDS):
        return Failure.KEY_REFUSED
    return Failure.MODEL_UNKNOWN if _MODEL_WORDS.search(said) else Failure.REQUEST_REFUSED


def _said(error: exceptions.ModelAPIError) -> str:
    """The message in the provider's error body; what the library says where there was none."""
    body = error.body
    if isinstance(error, exceptions.ModelConnectionError):
        causes = [str(each) for each in _chain(error) if isinstance(each, httpx2.TransportError)]
        return next(filter(None, causes), error.message)
    if isinstance(body, dict):
        inner = body.get("error", body)
        message = inner.get("message") if isinstance(inner, dict) else inner
        return message if isinstance(message, str) else ""
    return "" if isinstance(error, exceptions.ModelHTTPError) else error.message


def _clean(text: str, endpoint: Endpoint) -> str:
    """Without the key, or anything that looks like one, and not too long."""
    if endpoint.api_key:
        text = text.replace(endpoint.api_key, "***")
    text = _KEY.sub("***", text)
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."


def _message(failure: Failure, endpoint: Endpoint, status: int | None, said: str, timeout: float) -> str:
    who, what = endpoint.provider, endpoint.model
    words = f": {said.rstrip('.')}." if said else "."
    answered = f"{who} answered with status {status}{words}" if status is not None else f"{who} gave no answer{words}"
    match failure:
        case Failure.MODEL_UNKNOWN:
            return f"{who} does not know the model {what}{words}"
        case Failure.RATE_LIMITED:
            return f"{who} takes no more requests for the moment{words}"
        case Failure.TIMEOUT:
            return f"{who} did not answer within {timeout:g} seconds."
        case Failure.CONTEXT_TOO_LONG:
            return (
                f"The request is too long for {what}{words} Shorten the prompt, or use a model with a larger context."
            )
        case Failure.CONTENT_REFUSED:
            return f"{who} refused the content of the request{words}"
        case Failure.REQUEST_REFUSED:
            return f"{who} refused the request{words}"
        case _:
            return answered
