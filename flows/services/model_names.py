"""Whether the models that a flow names are served: known to the database and to the catalogue, not to the language."""

from dataclasses import replace

from django.utils import timezone

from accounts.models import User
from flows import organism
from flows.organism import OrganismInvalid
from flows.organism.spec import NamedModel, Organism, Problem, Validation
from llm import catalogue
from llm.kinds import PROVIDERS
from llm.services import unknown_model_reason


def validate_for(*, user: User, organism_yaml: str) -> Validation:
    """`organism.validate`, and what is wrong with its models for `user`: nobody serves one (an error), or a provider's
    own list does not have it (a warning: new models appear daily)."""
    validation = organism.validate(organism_yaml)
    errors, warnings = _problems(validation, user)
    return replace(
        validation,
        errors=sorted([*validation.errors, *errors], key=_place),
        warnings=sorted([*validation.warnings, *warnings], key=_place),
        organism=None if errors else validation.organism,
    )


def load_for(*, user: User, organism_yaml: str) -> Organism:
    """The organism, if somebody serves every model that it names. Raises `OrganismInvalid` (400) with every error."""
    validation = validate_for(user=user, organism_yaml=organism_yaml)
    if validation.organism is None:
        raise OrganismInvalid.of(validation.errors)
    return validation.organism


def _problems(validation: Validation, user: User) -> tuple[list[Problem], list[Problem]]:
    wrong = {(error.line, error.column) for error in validation.errors}
    models = [model for model in validation.models if (model.line, model.column) not in wrong]
    reasons = {name: unknown_model_reason(name, user) for name in {model.name for model in models}}
    errors = [model.problem(reason) for model in models if (reason := reasons[model.name]) is not None]
    served = [model for model in models if reasons[model.name] is None]
    return errors, [warning for model in served if (warning := _warning(model)) is not None]


def _warning(model: NamedModel) -> Problem | None:
    provider, name = catalogue.split(model.name)
    if provider is None or catalogue.find(model.name, at=timezone.now()) is not None:
        return None
    alike = catalogue.nearest(model.name)
    hint = f' Did you mean "{alike}"?' if alike else ""
    known = f'{PROVIDERS[provider].title} has no model "{name}" that is known here; its price is not known either.'
    return model.problem(f"{known}{hint}")


def _place(problem: Problem) -> tuple[int, int]:
    return problem.line, problem.column
