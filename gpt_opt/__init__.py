"""gpt-opt: sweeps of language-model training, each distinct run exactly once.

Data flows one way: `config` (typed keys) -> `run` (identity, claim, state) -> `training` (the work itself).

`gpt_opt.sweep("params/beta_sweep.json")` is a sweep from Python, see `gpt_opt.sweep_api`. Training programs of others
call `gpt_opt.report(step=step, loss=loss)`, see `gpt_opt.reporting`.
"""

from importlib import import_module
from typing import Any

_REPORTING = ("report", "checkpoint_dir", "should_stop")


def __getattr__(name: str) -> Any:
    """Returns what is imported only when it is asked for."""
    if name == "sweep":
        return import_module("gpt_opt.sweep")
    if name in _REPORTING:
        return getattr(import_module("gpt_opt.reporting"), name)
    raise AttributeError(f"module 'gpt_opt' has no attribute {name!r}")
