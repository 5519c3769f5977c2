"""Versions: frozen when a flow starts, copied back on request, and read by the engine."""

from functools import lru_cache
from uuid import UUID

from django.db import transaction
from django.utils import timezone

from accounts.models import User
from flows import organism
from flows.models import Flow, FlowVersion, yaml_digest
from flows.organism.spec import Organism
from flows.services.locks import lock_flow

MAX_YAML_BYTES = 256 * 1024  # of one organism.yaml


@lru_cache(maxsize=256)
def load_organism(version_id: UUID) -> Organism:
    """The organism of a version, compiled once a process: versions never change.

    Raises `OrganismInvalid` when it no longer loads (a block has gone, say) and `FlowVersion.DoesNotExist`.
    """
    return organism.load(FlowVersion.objects.values_list("organism_yaml", flat=True).get(pk=version_id))


def freeze_version(flow: Flow, *, by: User | None) -> FlowVersion:
    """The draft of a locked flow as a numbered version: the deployed one if nothing has changed since, else the next.

    The flow's row lock orders the numbers; the unique constraint on (flow, number) would catch who forgot it.
    """
    deployed = flow.deployed_version
    if deployed and (deployed.organism_yaml, deployed.canvas_state) == (flow.organism_yaml, flow.canvas_state):
        return deployed
    last = flow.versions.filter(number__isnull=False).order_by("-number").values_list("number", flat=True).first()
    return FlowVersion.objects.create(
        flow=flow,
        number=(last or 0) + 1,
        organism_yaml=flow.organism_yaml,
        canvas_state=flow.canvas_state,
        digest=yaml_digest(flow.organism_yaml),
        created_by=by,
    )


def draft_version(flow: Flow) -> FlowVersion:
    """The draft as a version without a number, for a test run; the same row as long as the YAML stays the same.

    Raises `OrganismInvalid` (400). Two callers at once share one row through the unique constraint.
    """
    organism.load(flow.organism_yaml)
    version, _ = FlowVersion.objects.get_or_create(
        flow=flow, number=None, digest=yaml_digest(flow.organism_yaml), defaults={"organism_yaml": flow.organism_yaml}
    )
    return version


def restore_version(*, flow: Flow, version: FlowVersion) -> Flow:
    """Copy a version's YAML and canvas into the draft. What is deployed stays as it is until the next start."""
    with transaction.atomic():
        flow = lock_flow(flow)
        flow.organism_yaml, flow.canvas_state = version.organism_yaml, version.canvas_state
        flow.updated_at = timezone.now()
        flow.save(update_fields=["organism_yaml", "canvas_state", "updated_at"])
    return flow
