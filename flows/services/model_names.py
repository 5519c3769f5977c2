"""Whether the models that a flow names are served: known to the database and to the catalogue, not to the language."""

from collections.abc import Iterator
from dataclasses import replace

from django.utils import timezone

from accounts.models import User
from flows import organism
from flows.organism import OrganismInvalid
from flows.organism.spec import NamedModel, Organism, Problem, Validation
from flows.organism.validate import bounded
from llm import catalogue
from llm.kinds import PROVIDERS
from llm.models import UserKey
from llm.services import unknown_model_reason

MAX_MODELS = 50  # different ones, of a flow: each is looked for in all that is known


def validate_for(*, user: User, organism_yaml: str) -> Validation:
    """`organism.validate`, and what is wrong with its models for `user`.

    Errors: nobody serves one, or the instructions alone are more than it takes. Warnings: a provider's own list does not
    have it (new models appear daily), or its price is not known where the listener has a `max_cost`. One query.
    """
    validation = organism.validate(organism_yaml)
    errors, warnings = _problems(validation, user)
    return replace(
        validation,
        errors=bounded(sorted([*validation.errors, *errors], key=_place)),
        warnings=bounded(sorted([*validation.warnings, *warnings], key=_place)),
        organism=None if errors else validation.organism,
    )


def load_for(*, user: User, organism_yaml: str) -> Organism:
    """The organism, if somebody serves every model that it names. Raises `OrganismInvalid` (400) with every error."""
    validation = validate_for(user=user, organism_yaml=organism_yaml)
    if validation.organism is None:
        raise OrganismInvalid.of(validation.errors)
    return validation.organism


def _problems(validation: Validation, user: User) -> tuple[list[Problem], list[Problem]]:
    wrong = {error.path for error in validation.errors}
    models = [model for model in validation.models if not _is_below(model.path, wrong)]
    names = list(dict.fromkeys(model.name for model in models))
    keys = list(UserKey.objects.for_user(user).order_by("provider")) if names else []
    reasons = {name: unknown_model_reason(name, user, keys=keys) for name in names[:MAX_MODELS]}
    told = [(model, reasons[model.name]) for model in models if model.name in reasons]
    errors = [model.problem(reason) for model, reason in told if reason is not None]
    errors += [error for model, reason in told if reason is None and (error := _too_long(model)) is not None]
    if len(names) > MAX_MODELS:
        more = next(model for model in models if model.name == names[MAX_MODELS])
        errors.append(more.problem(f"The flow names {len(names)} different models; at most {MAX_MODELS} are allowed."))
    return errors, [warning for model, reason in told if reason is None for warning in _warnings(model)]


def _is_below(path: str, wrong: set[str]) -> bool:
    """Whether it, or what it stands in, has an error: of a list that is too long, no single item is looked at."""
    while path and path not in wrong:
        path = path[: max(path.rfind("["), path.rfind("."), 0)]
    return bool(path)


def _too_long(model: NamedModel) -> Problem | None:
    context = catalogue.context_of(model.name)
    if context is None or not catalogue.is_surely_over(model.tokens, context):
        return None
    return model.problem(
        f"The instructions alone are too long for {model.name}, which takes {context:,} tokens in all. Shorten them, or "
        "use a model with a larger context."
    )


def _warnings(model: NamedModel) -> Iterator[Problem]:
    now = timezone.now()
    provider, name = catalogue.split(model.name)
    if provider is not None and catalogue.find(model.name, at=now) is None:
        alike = catalogue.nearest(model.name)
        hint = f' Did you mean "{alike}"?' if alike else ""
        known = f'{PROVIDERS[provider].title} has no model "{name}" that is known here; its price is not known either.'
        yield model.problem(f"{known}{hint}")
    if model.needs_price and not catalogue.has_price(model.name, at=now):
        yield model.problem(
            f"max_cost cannot be kept with {model.name}, whose price is not known here: its first answer ends the agent"
            " (cost_unknown). Bound the agent by max_tokens instead."
        )
    context = catalogue.context_of(model.name)
    if context is not None and model.tokens > context and not catalogue.is_surely_over(model.tokens, context):
        yield model.problem(
            f"The instructions alone may be too long for {model.name}, which takes {context:,} tokens in all."
        )


def _place(problem: Problem) -> tuple[int, int]:
    return problem.line, problem.column
