"""The admin's pages of billing. Importing registers them."""

from billing.admin import budgets, customers, mails, run_notices, stripe, usage  # noqa: F401
