"""The admin's pages of billing. Importing registers them."""

from billing.admin import budgets, customers, usage  # noqa: F401
