"""The vocabulary of filters over flows and what belongs to them. They compose and never write."""

from typing import TYPE_CHECKING, Self, TypeVar

from django.db import models
from django.db.models import Q

if TYPE_CHECKING:
    from accounts.models import User
    from flows.models import Flow

M = TypeVar("M", bound=models.Model)


class OwnedQuerySet(models.QuerySet[M]):
    """Rows that belong to one user, straight or through the path that the model names as `owner_path`."""

    def for_user(self, user: "User") -> Self:
        """The one guarded door to a tenant's rows."""
        return self.filter(**{getattr(self.model, "owner_path", "user"): user})

    def seen_by(self, flow: "Flow") -> Self:
        """Variables or secrets in scope in `flow`: its tenant's and its own."""
        return self.filter(Q(user=flow.user_id) & (Q(flow=None) | Q(flow=flow)))


class FlowQuerySet(OwnedQuerySet["Flow"]):
    def search(self, text: str) -> Self:
        return self.filter(Q(name__icontains=text) | Q(description__icontains=text))

    def locked(self) -> Self:
        """For whoever starts, stops or edits a flow. Firings, which share the row, wait for it; references to it do not."""
        return self.select_for_update(of=("self",), no_key=True)

    def without_bodies(self) -> Self:
        """Lists never read the YAML or the canvas."""
        return self.defer("organism_yaml", "canvas_state")

    def with_deployment(self) -> Self:
        """With the number and digest of the deployed version, and not its YAML."""
        return self.select_related("deployed_version").defer(
            "deployed_version__organism_yaml", "deployed_version__canvas_state"
        )


class FlowManager(models.Manager.from_queryset(FlowQuerySet)):  # type: ignore[misc]
    """All flows but those that are deleted, and whose history is still being cleared away."""

    def get_queryset(self) -> FlowQuerySet:
        return super().get_queryset().filter(deleted_at=None)
