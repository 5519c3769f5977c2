"""pydantic-ai's models, on SDK clients that go through the guarded transport."""

import warnings
from hashlib import sha256

from anthropic import AsyncAnthropic
from openai import AsyncOpenAI
from pydantic_ai.models import Model
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.profiles.grok import grok_model_profile
from pydantic_ai.profiles.openai import OpenAIModelProfile
from pydantic_ai.providers import Provider
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.providers.openai_compatible import OpenAICompatibleProvider
from pydantic_ai.providers.together import TogetherProvider

from llm import catalogue
from llm.exchange import Endpoint
from llm.wire.http import LoopClient, loop_client
from llm.wire.keys import base_url_of

MAX_MODELS = 256  # kept for an event loop; making one takes a millisecond or two

# The author may give a temperature to a model that takes none: it is left out, and that is no news for each process.
warnings.filterwarnings("ignore", message="Sampling parameters", category=UserWarning)


def model_of(endpoint: Endpoint) -> Model:
    """The model at `endpoint`, from the running loop's cache. Raises `ProviderFailed` where it has no base URL."""
    client, url = loop_client(), base_url_of(endpoint)
    # The hash and not the key: a cache is what ends up in a memory dump or an error page.
    key_hash = sha256(endpoint.api_key.encode()).digest()
    place = endpoint.provider, endpoint.kind, url, endpoint.model, key_hash
    if place not in client.models:
        client.models[place] = _made(endpoint, url, client)
        if len(client.models) > MAX_MODELS:
            client.models.popitem(last=False)
    client.models.move_to_end(place)
    return client.models[place]


def _made(endpoint: Endpoint, url: str, client: LoopClient) -> Model:
    key = endpoint.api_key or "none"  # the SDKs insist on one
    if endpoint.kind == "anthropic":
        anthropic = AsyncAnthropic(api_key=key, base_url=url, http_client=client.http, max_retries=0)
        return AnthropicModel(endpoint.model, provider=AnthropicProvider(anthropic_client=anthropic))
    openai = AsyncOpenAI(api_key=key, base_url=url, http_client=client.http, max_retries=0)
    provider = _openai_provider(endpoint, openai)
    if endpoint.kind == "openai-responses":
        return OpenAIResponsesModel(endpoint.model, provider=provider)
    return OpenAIChatModel(endpoint.model, provider=provider, profile=_chat_profile(endpoint))


def _chat_profile(endpoint: Endpoint) -> OpenAIModelProfile:
    """What holds wherever chat completions are spoken."""
    # OpenAI's own models take nothing but `max_completion_tokens`; most other servers know `max_tokens` alone, and an
    # answer whose bound they ignore is paid for.
    is_openais = endpoint.provider == "openai" or catalogue.is_known("openai", endpoint.model)
    return OpenAIModelProfile(
        # Else a stream that ends in the middle of the answer passes for a whole one.
        openai_chat_streaming_requires_finish_reason=True,
        openai_chat_supports_max_completion_tokens=is_openais,
    )


def _openai_provider(endpoint: Endpoint, client: AsyncOpenAI) -> Provider[AsyncOpenAI]:
    """The one that knows what the place's models can do."""
    match endpoint.provider:
        case "openai":
            return OpenAIProvider(openai_client=client)
        case "together":
            return TogetherProvider(openai_client=client)
        case "xai":
            return OpenAICompatibleProvider("xai", openai_client=client, profile=grok_model_profile)
        case name:
            return OpenAICompatibleProvider(name, openai_client=client)
