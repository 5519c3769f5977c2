"""What Stripe says when it refuses a request."""

from typing import Any


class StripeError(Exception):
    """A refusal in Stripe's shape: the status, and what stands under `error` in the body."""

    def __init__(self, status: int, kind: str, message: str, *, code: str = "", param: str = "", **more: Any) -> None:
        super().__init__(message)
        self.status = status
        self.error = {"type": kind, "message": message, **more}
        if code:
            self.error |= {"code": code, "doc_url": f"https://stripe.com/docs/error-codes/{code.replace('_', '-')}"}
        if param:
            self.error["param"] = param

    @property
    def body(self) -> dict[str, Any]:
        return {"error": self.error}


def refused(message: str, *, param: str = "", code: str = "", status: int = 400) -> StripeError:
    return StripeError(status, "invalid_request_error", message, code=code, param=param)


def missing(kind: str, key: str, *, param: str = "id", status: int = 404) -> StripeError:
    """Nothing of this kind has the id; in a parameter that is a 400, in the path a 404."""
    return refused(f"No such {kind}: '{key}'", param=param, code="resource_missing", status=status)


def not_played(name: str) -> StripeError:
    """Stripe takes the parameter, this server does not act on it: a test must hear of that, not pass by luck."""
    return refused(f"tests.stripe_server does not play {name}", param=name, code="not_played")


def declined() -> StripeError:
    message = "Your card was declined."
    return StripeError(402, "card_error", message, code="card_declined", decline_code="generic_decline")


def no_card() -> StripeError:
    """There is nothing to charge: Stripe names no parameter then."""
    message = (
        "This customer has no attached payment source or default payment method. Please consider adding a default "
    )
    return refused(message + "payment method.", code="resource_missing")
