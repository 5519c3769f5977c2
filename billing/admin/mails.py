"""The mails about subscriptions: what was sent, and what each kind looks like."""

from typing import Any

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.template.loader import render_to_string
from django.template.response import TemplateResponse
from django.urls import URLPattern, path
from django.utils.safestring import SafeString

from accounts.models import Tier, User
from billing.admin.stripe import OfUserAdmin
from billing.models import BillingMail, MailKind
from billing.subscription_mails import SAMPLES, mail_text


@admin.register(BillingMail)
class BillingMailAdmin(OfUserAdmin):
    """Each with its text as it is sent, and a page of samples."""

    change_list_template = "admin/billing/billingmail/change_list.html"
    list_display = ("kind", "user", "created_at", "sent_at", "attempts", "due_at", "error")
    list_filter = ("kind", "created_at", "sent_at")

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return [*super().get_fields(request, obj), "preview"]

    @admin.display(description="text")
    def preview(self, mail: BillingMail) -> SafeString:
        said = mail_text(kind=mail.kind, context=mail.context, user=mail.user)
        return render_to_string("admin/billing/billingmail/preview.html", {"said": said})

    def get_urls(self) -> list[URLPattern]:
        previews = path("previews/", self.admin_site.admin_view(self.previews), name="billing_billingmail_previews")
        return [previews, *super().get_urls()]

    def previews(self, request: HttpRequest) -> HttpResponse:
        """A sample of each kind, as its template says it now."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        someone = User(name="Ada Lovelace", email="ada@shop.example", tier=Tier.PRO)
        samples = [
            {"kind": kind, "said": mail_text(kind=kind, context=SAMPLES[kind], user=someone)} for kind in MailKind
        ]
        context = {**self.admin_site.each_context(request), "title": "Samples of the mails", "samples": samples}
        return TemplateResponse(
            request, "admin/billing/billingmail/previews.html", {**context, "opts": self.opts, "media": self.media}
        )
