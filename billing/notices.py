"""What a change of a subscription leaves to be done, written in the transaction of the change."""

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import Exists, OuterRef

from accounts.models import User
from billing.models import BillingMail, FlowCapReview, LimitOverride, MailKind
from billing.overrides import KEPT_SECONDS

REVIEW_WAIT = timedelta(minutes=1)  # longer than an attempt takes; twice as long after each attempt, up to
NAMELESS_AFTER = 3  # attempts
EXPIRED = 100  # at a time
KNOWN_AFTER = timedelta(seconds=2 * KEPT_SECONDS)
LONGEST_WAIT = timedelta(hours=6)


def note_mail(*, user: User, kind: MailKind, key: str, context: dict[str, Any], now: datetime) -> None:
    """A mail to `user`, in the caller's transaction. `key` is of what it tells: the unique constraint lets it be told
    once."""
    mail = BillingMail(user=user, kind=kind, dedupe_key=key, context=context, due_at=now, created_at=now)
    BillingMail.objects.bulk_create([mail], ignore_conflicts=True)


def note_downgrade(*, user: User, before: str, now: datetime) -> None:
    """Flows may be over the cap of the tier that `user` has come to from `before`: a review, in the caller's transaction."""
    FlowCapReview.objects.create(user=user, from_tier=before, due_at=now, created_at=now)


def note_own_limit(*, user: User, now: datetime) -> None:
    """The cap of the user's flows has changed by an operator's hand, perhaps to less: a review, in the caller's transaction.
    Due when every process knows of the change."""
    FlowCapReview.objects.create(user=user, due_at=now + KNOWN_AFTER, created_at=now)


def note_expired_limits(*, now: datetime) -> None:
    """The same for what an operator had set until now, once each: whoever asks at the same time sees to the same flows."""
    seen_to = FlowCapReview.objects.filter(user=OuterRef("user"), created_at__gte=OuterRef("expires_at"))
    expired = LimitOverride.objects.filter(~Exists(seen_to), limit="flows", expires_at__lte=now)
    for override in expired.select_related("user")[:EXPIRED]:
        note_own_limit(user=override.user, now=now)


def note_mail_of_downgrade(*, user: User, kind: MailKind, key: str, context: dict[str, Any], now: datetime) -> None:
    """The mail that tells of a downgrade waits for its review, which names the flows that were stopped.

    In the transaction that noted the review, so no other can have taken it up. Where none was, the mail is due at once.
    """
    review = FlowCapReview.objects.filter(user=user, done_at=None, mail=None, created_at=now).last()
    mail = BillingMail(user=user, kind=kind, dedupe_key=key, context=context, created_at=now)
    mail.due_at = None if review else now
    BillingMail.objects.bulk_create([mail], ignore_conflicts=True)
    if review is not None:
        FlowCapReview.objects.filter(pk=review.pk).update(mail=BillingMail.objects.get(dedupe_key=key))


# Reviews, for whoever knows flows. ---------------------------------------------------------------------------------
def claim_review(*, now: datetime) -> FlowCapReview | None:
    """One that is due, with its user. The row lock lets one of two claimers have it; whoever dies leaves it due later."""
    with transaction.atomic():
        due = FlowCapReview.objects.due(now).select_for_update(skip_locked=True, of=("self",))
        review = due.select_related("user", "mail").order_by("due_at").first()
        if review is not None:
            review.attempts += 1
            review.due_at = now + min(REVIEW_WAIT * 2 ** min(review.attempts - 1, 16), LONGEST_WAIT)
            review.save(update_fields=["attempts", "due_at"])
    return review


def plan_review(review: FlowCapReview, flows: list[dict[str, str]]) -> None:
    """Write down what is about to be stopped, as [{id, name}]: a review that is taken up again must not forget it."""
    known = {flow["id"] for flow in review.stopped}
    review.stopped = [*review.stopped, *(flow for flow in flows if flow["id"] not in known)]
    FlowCapReview.objects.filter(pk=review.pk).update(stopped=review.stopped)


def interrupt_review(review: FlowCapReview, *, now: datetime) -> None:
    """The attempt has had its time, and has not failed: it counts no more, and the next is due at once. One that is not the
    latest says nothing."""
    latest = FlowCapReview.objects.filter(pk=review.pk, attempts=review.attempts, done_at=None)
    latest.update(attempts=review.attempts - 1, due_at=now)


def complete_review(review: FlowCapReview, *, now: datetime) -> None:
    """The flows are stopped: their names go into the mail that waits for them, or where that has gone out without, into one
    of their own. Once, by the condition on `done_at`."""
    with transaction.atomic():
        open_ones = FlowCapReview.objects.filter(pk=review.pk, done_at=None)
        if not open_ones.update(done_at=now, due_at=None, error=""):
            return
        names = [flow["name"] for flow in review.stopped]
        if review.mail_id and _complete_mail(review.mail_id, names, now=now):
            return
        if not names and (review.mail_id or not review.from_tier):  # told already; or a limit that holds no flow back
            return
        context: dict[str, Any] = {"tier": review.user.tier, "stopped_flows": names}
        if not review.from_tier:
            context["own_limit"] = True
        key = f"downgraded:review:{review.pk}"
        note_mail(user=review.user, kind=MailKind.DOWNGRADED, key=key, context=context, now=now)


def _complete_mail(mail_id: UUID, names: list[str], *, now: datetime) -> bool:
    """Whether the mail tells `names` now. One that has had an attempt may be on its way without them."""
    untried = BillingMail.objects.filter(pk=mail_id, attempts=0, sent_at=None)
    mail = untried.select_for_update(of=("self",)).first()
    if mail is None:
        return False
    mail.context = {**mail.context, "stopped_flows": names}
    mail.due_at = now
    mail.save(update_fields=["context", "due_at"])
    return True


def fail_review(review: FlowCapReview, error: str, *, now: datetime) -> None:
    """An attempt that is not the latest says nothing. After some the mail goes out without the names: that the tier has
    fallen must be told."""
    if review.attempts >= NAMELESS_AFTER:
        BillingMail.objects.filter(review=review, due_at=None, attempts=0, sent_at=None).update(due_at=now)
    FlowCapReview.objects.filter(pk=review.pk, attempts=review.attempts).update(error=error[:2_000])
