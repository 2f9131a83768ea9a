"""Optimizers and learning rate schedules."""

from gpt_opt.training.optimizers.build import build_optimizer
from gpt_opt.training.optimizers.schedules import lr_factor, phase_steps

__all__ = ["build_optimizer", "lr_factor", "phase_steps"]
