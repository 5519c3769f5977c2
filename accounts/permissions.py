"""Who may: every signed-in user over their own rows; an access token as far as its scopes go."""

from typing import Any

from rest_framework.exceptions import PermissionDenied
from rest_framework.permissions import SAFE_METHODS, BasePermission
from rest_framework.request import Request

from accounts.models import AccessToken, Scope


class HasScope(BasePermission):
    """Signed in and, with an access token, holding `read` for GET, HEAD and OPTIONS, `write` for all else."""

    def has_permission(self, request: Request, view: Any) -> bool:
        if not request.user:
            return False
        scope = Scope.READ if request.method in SAFE_METHODS else Scope.WRITE
        if isinstance(request.auth, AccessToken) and scope not in request.auth.scopes:
            raise PermissionDenied(f"This access token lacks the scope `{scope}`.")
        return True
