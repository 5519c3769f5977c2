"""What can be done with flows. Each verb owns its transaction; the apps above import from here."""

from flows.services.budgets import llm_report, set_budget
from flows.services.deployments import fail_flow, finish_stop, start_flow, stop_flow
from flows.services.flows import (
    create_flow,
    delete_flow,
    duplicate_flow,
    erase_flow,
    export_flow,
    flow_by_reference,
    update_flow,
)
from flows.services.model_names import validate_for
from flows.services.secrets import delete_secret, optional_secret, secret_value, set_secret
from flows.services.sharing import share_flows
from flows.services.variables import delete_variable, set_variable, variables_of
from flows.services.versions import draft_version, load_organism, restore_version

__all__ = [
    "create_flow",
    "delete_flow",
    "delete_secret",
    "delete_variable",
    "draft_version",
    "duplicate_flow",
    "erase_flow",
    "export_flow",
    "fail_flow",
    "finish_stop",
    "flow_by_reference",
    "llm_report",
    "load_organism",
    "optional_secret",
    "restore_version",
    "secret_value",
    "set_budget",
    "set_secret",
    "set_variable",
    "share_flows",
    "start_flow",
    "stop_flow",
    "update_flow",
    "validate_for",
    "variables_of",
]
