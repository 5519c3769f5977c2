"""Views that do what a test of `bloxserver.api` needs and no product view does on purpose, beside the real ones."""

from typing import Any

from django.contrib import admin
from django.db.utils import ConnectionHandler
from django.http import HttpRequest, HttpResponse
from django.urls import include, path
from rest_framework import serializers
from rest_framework.permissions import AllowAny
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from bloxserver.api.pagination import ExecutionPagination, PageNumberPagination

SECRET = "password=hunter2"


class EchoView(APIView):
    """Answers what the parser gave, so that a body goes through both directions."""

    def post(self, request: Request) -> Response:
        return Response(request.data)


class ItemSerializer(serializers.Serializer[Any]):
    unit_price = serializers.FloatField()


class OrderSerializer(serializers.Serializer[Any]):
    order_name = serializers.CharField(max_length=10)
    line_items = ItemSerializer(many=True)
    config = serializers.DictField(child=serializers.IntegerField(), required=False)


class OrderView(APIView):
    def post(self, request: Request) -> Response:
        serializer = OrderSerializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        return Response(serializer.validated_data)


class NumbersView(APIView):
    paginator: Any = PageNumberPagination()

    def get(self, request: Request) -> Response:
        return self.paginator.get_paginated_response(self.paginator.paginate_queryset(range(1, 46), request))


class ExecutionNumbersView(NumbersView):
    paginator = ExecutionPagination()


class BrokenView(APIView):
    def get(self, request: Request) -> Response:
        raise RuntimeError(SECRET)


class DatabaseAwayView(APIView):
    def get(self, request: Request) -> Response:
        nowhere = {
            "ENGINE": "django.db.backends.postgresql",
            "HOST": "127.0.0.1",
            "PORT": "1",
            "NAME": "x",
            "USER": "x",
        }
        ConnectionHandler({"default": nowhere})["default"].cursor()
        raise AssertionError("port 1 answered")


class PublicView(APIView):
    permission_classes = [AllowAny]

    def get(self, request: Request) -> Response:
        return Response({"anyone": True})


def plain_broken_view(request: HttpRequest) -> HttpResponse:
    raise RuntimeError(SECRET)


def plain_form_view(request: HttpRequest) -> HttpResponse:
    return HttpResponse(f"{len(request.POST)} fields")


urlpatterns = [
    path("api/v1/test/echo", EchoView.as_view()),
    path("api/v1/test/order", OrderView.as_view()),
    path("api/v1/test/numbers", NumbersView.as_view()),
    path("api/v1/test/execution-numbers", ExecutionNumbersView.as_view()),
    path("api/v1/test/broken", BrokenView.as_view()),
    path("api/v1/test/database-away", DatabaseAwayView.as_view()),
    path("api/v1/test/public", PublicView.as_view()),
    path("api/v1/test/plain-broken", plain_broken_view),
    path("api/v1/test/plain-form", plain_form_view),
    path("api/v1/", include("accounts.urls")),
    path("admin/", admin.site.urls),
]
handler400 = "bloxserver.api.errors.handler400"
handler403 = "bloxserver.api.errors.handler403"
handler404 = "bloxserver.api.errors.handler404"
handler500 = "bloxserver.api.errors.handler500"
