"""Optimizers and learning rate schedules."""

from gpt_opt.training.optimizers.build import build_optimizer
from gpt_opt.training.optimizers.roles import NamedParameter, Role, named_parameters
from gpt_opt.training.optimizers.schedules import Phases, lr_factor, phases_of
from gpt_opt.training.optimizers.state import load_state_by_name, state_by_name, with_names
from gpt_opt.training.optimizers.table import routing_table

__all__ = [
    "NamedParameter",
    "Phases",
    "Role",
    "build_optimizer",
    "load_state_by_name",
    "lr_factor",
    "named_parameters",
    "phases_of",
    "routing_table",
    "state_by_name",
    "with_names",
]
