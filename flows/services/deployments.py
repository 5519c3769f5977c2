"""Start and stop: which version of a flow is deployed, and whether firings are accepted.

Every change of status happens under the flow's row lock, or is one conditional UPDATE. The signals are sent inside the
transaction, so triggers are armed exactly when the flow runs.
"""

from uuid import uuid4

from django.db import transaction
from django.utils import timezone

from accounts.models import User
from billing.services import limits_of, whose_limit
from flows.errors import FlowLimitReached
from flows.models import Flow, FlowStatus
from flows.services.locks import lock_flow, lock_owner
from flows.services.model_names import load_for
from flows.services.versions import freeze_version
from flows.signals import flow_started, flow_stopped


def start_flow(*, flow: Flow, by: User | None) -> Flow:
    """Deploy the draft: freeze it as a version, accept firings, arm the triggers. A running flow is redeployed.

    `by` is kept as who made the version. Raises `OrganismInvalid` (400) with every error of the YAML, and with every model
    in it that nobody serves; `FlowLimitReached` (402) where as many run as the tier holds, as may be after a downgrade: the
    owner's row lock makes the cap exact.
    """
    load_for(user=flow.user, organism_yaml=flow.organism_yaml)  # before the lock: on SQLite it would hold up others
    with transaction.atomic():
        owner = lock_owner(flow.user)
        locked = lock_flow(flow)
        _require_room(owner, locked)
        if locked.organism_yaml != flow.organism_yaml:  # edited meanwhile
            load_for(user=flow.user, organism_yaml=locked.organism_yaml)
        locked.deployed_version = freeze_version(locked, by=by)
        locked.deployed_at = timezone.now()
        _set_status(locked, FlowStatus.RUNNING, container_id=str(uuid4()))
        flow_started.send(sender=Flow, flow=locked)
    return locked


def stop_flow(*, flow: Flow, force: bool = False) -> Flow:
    """Refuse new firings at once. The flow is `stopping` while executions finish; `force` cancels them.

    Stopping a stopped flow changes nothing; stopping a stopping one by force cancels what it was waiting for.
    """
    with transaction.atomic():
        locked = lock_flow(flow)
        if locked.status == FlowStatus.STOPPED:
            return locked
        if locked.status != FlowStatus.STOPPING:
            _set_status(locked, FlowStatus.STOPPING, container_id=locked.container_id)
        flow_stopped.send(sender=Flow, flow=locked, force=force)
        locked.refresh_from_db(fields=["status", "container_id", "updated_at"])  # where nothing ran it has stopped
    return locked


def finish_stop(*, flow: Flow) -> bool:
    """A stopping flow whose last execution has ended is stopped. False when it was not stopping (any more)."""
    stopping = Flow.objects.filter(pk=flow.pk, status=FlowStatus.STOPPING)
    return bool(stopping.update(status=FlowStatus.STOPPED, container_id=None, updated_at=timezone.now()))


def fail_flow(*, flow: Flow, message: str) -> bool:
    """Pause a running flow as `error` with `message`; firings are refused until a person starts it again.

    It is about the deployment that the caller saw: False, and no change, when the flow has been stopped or redeployed
    since.
    """
    with transaction.atomic():
        locked = lock_flow(flow)
        if locked.status != FlowStatus.RUNNING or locked.container_id != flow.container_id:
            return False
        _set_status(locked, FlowStatus.ERROR, container_id=None, error_message=message)
        flow_stopped.send(sender=Flow, flow=locked, force=False)
    return True


def _require_room(owner: User, flow: Flow) -> None:
    limit = limits_of(owner).flows
    others = Flow.objects.for_user(owner).filter(status=FlowStatus.RUNNING).exclude(pk=flow.pk).count()
    if others >= limit:
        flows = "1 flow" if limit == 1 else f"{limit:,} flows"
        raise FlowLimitReached(
            f"{whose_limit(owner, 'flows')} is {flows}, and as many are running. Stop one, or upgrade to run more.",
            details={"limit": limit, "tier": owner.tier},
        )


def _set_status(
    locked: Flow, status: FlowStatus, *, container_id: str | None, error_message: str | None = None
) -> None:
    locked.status, locked.container_id, locked.error_message = status, container_id, error_message
    locked.updated_at = timezone.now()
    locked.save(
        update_fields=["status", "container_id", "error_message", "deployed_version", "deployed_at", "updated_at"]
    )
