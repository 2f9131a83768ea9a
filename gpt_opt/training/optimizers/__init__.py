"""Optimizers and learning rate schedules."""

from gpt_opt.training.optimizers.build import build_optimizer
from gpt_opt.training.optimizers.roles import NamedParameter, Role, named_parameters
from gpt_opt.training.optimizers.schedules import lr_factor, phase_steps
from gpt_opt.training.optimizers.state import load_state_by_name, state_by_name, with_names

__all__ = [
    "NamedParameter",
    "Role",
    "build_optimizer",
    "load_state_by_name",
    "lr_factor",
    "named_parameters",
    "phase_steps",
    "state_by_name",
    "with_names",
]
