"""What a trigger's `config` may say, by type. The user's dict is stored key for key; these models read it."""

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from bloxserver.core.words import closest
from executions.models import TriggerType
from flows.services.stored import NAME, NAME_RULE
from triggers.cron import MAX_JITTER, Schedule, parse, parse_cron, parse_zone
from triggers.errors import InvalidTriggerConfig
from triggers.signatures import Scheme

Method = Literal["POST", "GET", "PUT", "PATCH", "DELETE"]
MAX_WAIT = 60  # seconds; the highest tier's, each user's limit caps it further when a call comes in


class _Config(BaseModel):
    """Unknown keys are errors: a misspelt option must not be silently without effect."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class SignatureConfig(_Config):
    scheme: Scheme
    secret: str = Field(description="The name of a stored secret.")

    @field_validator("secret")
    @classmethod
    def _nameable(cls, value: str) -> str:
        if not NAME.fullmatch(value):
            raise PydanticCustomError(
                "secret", "Must be the name of a stored secret, not the secret. {rule}", {"rule": NAME_RULE}
            )
        return value


class WebhookConfig(_Config):
    type: Literal["webhook"] = "webhook"
    methods: list[Method] = Field(default=["POST"], min_length=1, max_length=5)
    respond: Literal["accepted", "result"] = "accepted"
    wait: float | None = Field(
        default=None, gt=0, le=MAX_WAIT, description="Seconds; by default as many as your limit allows."
    )
    signature: SignatureConfig | None = None

    @model_validator(mode="after")
    def _signs_a_body(self) -> Self:
        """The schemes sign the body and not the query, which is all that these methods usually have."""
        unsigned = sorted({"GET", "DELETE"}.intersection(self.methods))
        if self.signature is not None and unsigned:
            raise PydanticCustomError(
                "signature",
                "signature: A signature covers a body, so {methods} cannot be signed; take POST, PUT or PATCH alone.",
                {"methods": " and ".join(unsigned)},
            )
        return self


class ScheduleConfig(_Config):
    type: Literal["schedule"] = "schedule"
    cron: str
    timezone: str = "UTC"
    overlap: Literal["queue", "skip", "cancel"] = "queue"
    catch_up: Literal["latest", "all", "none"] = Field(default="latest", alias="catchUp")
    jitter: int = Field(default=0, ge=0, le=MAX_JITTER, description="Seconds.")

    @field_validator("cron")
    @classmethod
    def _readable(cls, value: str) -> str:
        return _valid(parse_cron, value)

    @field_validator("timezone")
    @classmethod
    def _known(cls, value: str) -> str:
        _valid(parse_zone, value)
        return value

    @property
    def schedule(self) -> Schedule:
        return parse(self.cron, self.timezone)

    @property
    def timing(self) -> tuple[str, str, int]:
        """What decides when it fires next."""
        return self.cron, self.timezone, self.jitter


class ManualConfig(_Config):
    type: Literal["manual"] = "manual"


_MODELS: dict[str, type[_Config]] = {
    TriggerType.WEBHOOK: WebhookConfig,
    TriggerType.SCHEDULE: ScheduleConfig,
    TriggerType.MANUAL: ManualConfig,
}


def read_config(type: str, config: dict[str, Any]) -> WebhookConfig | ScheduleConfig | ManualConfig:
    """The user's `config` of a trigger of that type. Raises `InvalidTriggerConfig` with all that is wrong with it."""
    try:
        return _MODELS[type].model_validate(config)  # type: ignore[return-value]
    except ValidationError as error:
        messages = [_message(type, problem) for problem in error.errors(include_url=False)]
        raise InvalidTriggerConfig(
            f"The config of this {type} trigger is not valid: {messages[0]}", details={"config": messages}
        ) from None


def _valid(parse: Any, value: str) -> Any:
    try:
        return parse(value)
    except ValueError as error:
        raise PydanticCustomError("schedule", "{reason}", {"reason": str(error)}) from None


def _message(trigger_type: str, problem: ErrorDetails) -> str:
    """One problem as "key: what to do"."""
    loc = [str(part) for part in problem["loc"]]
    path = ".".join(loc) or "config"
    if problem["type"] == "signature":
        return problem["msg"]
    if problem["type"] != "extra_forbidden":
        return f"{path}: {problem['msg']}"
    model: type[_Config] = SignatureConfig if loc[0] == "signature" and len(loc) > 1 else _MODELS[trigger_type]
    known = [field.alias or name for name, field in model.model_fields.items()]
    near = closest(loc[-1], known)
    hint = f"Did you mean {near}?" if near else f"Known keys are {', '.join(known)}."
    return f"{path[:64]}: Unknown key. {hint}"
