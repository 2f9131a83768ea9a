"""Optimizers."""

from gpt_opt.training.optimizers.build import build_optimizer
from gpt_opt.training.optimizers.roles import NamedParameter, Role, named_parameters
from gpt_opt.training.optimizers.state import load_state_by_name, state_by_name, with_names
from gpt_opt.training.optimizers.table import routing_table

__all__ = [
    "NamedParameter",
    "Role",
    "build_optimizer",
    "load_state_by_name",
    "named_parameters",
    "routing_table",
    "state_by_name",
    "with_names",
]
