"""Retrying and cancelling many executions at once."""
