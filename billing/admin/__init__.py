"""The admin's pages of billing. Importing registers them."""

from billing.admin import budgets, customers, run_notices, usage  # noqa: F401
