"""Which flows ask models. What these are told operators read only where the tenant lets them."""

from django.db.models import Q

from flows.blocks.registry import catalogue
from flows.models import Flow

HIDDEN = "hidden: the tenant has not allowed operators to read prompts"
AI = "ai"  # the category of the blocks that ask models


def ai_blocks() -> frozenset[str]:
    return frozenset(name for name, block in catalogue().items() if block.category == AI)


def asks_models(yaml: str) -> bool:
    """Whether an organism names a block that asks models; true of a few that do not, as where a text has its name."""
    return any(name in yaml for name in ai_blocks())


def asking(field: str) -> Q:
    """`asks_models` as a filter over a column."""
    found = Q(pk__in=[])
    for name in ai_blocks():
        found |= Q(**{f"{field}__contains": name})
    return found


def hides_prompts(flow: Flow) -> bool:
    """Whether operators must not read what the flow keeps and says: it asks models, now or in a version, and its tenant has
    not shared that."""
    if flow.user.share_prompts_with_operators:
        return False
    return asks_models(flow.organism_yaml) or flow.versions.filter(asking("organism_yaml")).exists()
