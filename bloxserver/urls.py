"""Every path of the server. The API's own lie with their apps; health and metrics are `bloxserver.health`'s."""

from threading import Lock

from django.conf import settings
from django.contrib import admin
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.template.response import SimpleTemplateResponse
from django.urls import include, path
from django.views.decorators.cache import cache_page
from django.views.generic import TemplateView
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerSplitView

import accounts.urls
import billing.urls
import executions.urls
import triggers.urls

admin.site.site_header = "BloxServer"
admin.site.site_title = "BloxServer"
admin.site.index_title = "Operations"

_making_schema = Lock()


def schema_view(request: HttpRequest) -> HttpResponseBase:
    """The schema is the same for everyone, takes a second to make, and fails when two threads make their first at once."""
    make = SpectacularAPIView.as_view()
    with _making_schema:
        response = make(request) if settings.DEBUG else cache_page(3600)(make)(request)
        return response.render() if isinstance(response, SimpleTemplateResponse) else response  # into the cache


urlpatterns = [
    # Paths are tried in this order, and a webhook's comes a thousand times a second.
    *accounts.urls.public_urlpatterns,
    *billing.urls.public_urlpatterns,
    *triggers.urls.public_urlpatterns,
    path("", TemplateView.as_view(template_name="landing.html"), name="landing"),
    path("admin/", admin.site.urls),
    path("api/schema", schema_view, name="schema"),
    # "Split": its script comes as a file of its own, which the content security policy lets run.
    path("api/docs", SpectacularSwaggerSplitView.as_view(url_name="schema"), name="docs"),
    path("api/v1/", include("accounts.urls")),
    path("api/v1/", include("billing.urls")),
    path("api/v1/", include("llm.urls")),
    path("api/v1/", include("flows.urls")),
    path("api/v1/", include("executions.urls")),
    path("api/v1/", include("triggers.urls")),
    *executions.urls.public_urlpatterns,
]

handler400 = "bloxserver.api.errors.handler400"
handler403 = "bloxserver.api.errors.handler403"
handler404 = "bloxserver.api.errors.handler404"
handler500 = "bloxserver.api.errors.handler500"
