"""What must hold in the group `lora`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from gpt_opt.config.checks.models import ALL_LINEAR
from gpt_opt.errors import Problem


def lora_problems(config: Mapping[str, Any]) -> Iterator[Problem]:
    """Checks which layers get adapters, and their size and dropout."""
    lora = config["lora"]
    targets = lora.get("target_modules") if lora else None
    named = isinstance(targets, list) and all(isinstance(name, str) for name in targets)
    if not (named or targets in (None, ALL_LINEAR)):
        problem = f"must be null, {ALL_LINEAR} or a list of names, but is {targets!r}"
        yield Problem("lora.target_modules", problem, "write lora.target_modules=[q_proj,v_proj]")
    if lora and not 0 <= lora["lora_dropout"] < 1:
        yield Problem("lora.lora_dropout", f"0 <= lora_dropout < 1 must hold, but it is {lora['lora_dropout']}")
    for key in ("r", "lora_alpha"):
        if lora and lora[key] < 1:
            yield Problem(f"lora.{key}", f"must be at least 1, but is {lora[key]}")
