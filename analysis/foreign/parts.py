"""What one kind of record tells of a run of others, and how several kinds go together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from analysis.files import Problems
from gpt_opt.app.sources.row import Row


@dataclass
class Part:
    """What is known of a run.

    Attributes:
        kind: What made the record, for a reader: `Hydra`, `tensorboard`.
        fixed: Values of `RUN_COLUMNS` by name.
        config: The config, nested.
        curves: Step to metrics by our names, and `time` in seconds since 1970.
        final: Final metrics where the record has them; the last of `curves` otherwise.
        missing: What is not known, or not read, and why; a phrase each.
        problems: What is broken.
    """

    kind: str
    fixed: dict[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    curves: dict[int, dict[str, Any]] = field(default_factory=dict)
    final: dict[str, Any] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    problems: Problems = field(default_factory=Problems)

    def take(self, row: Row) -> None:
        """Adds a row of metrics by our names; of a step the later values stand."""
        at_step = self.curves.setdefault(row["step"], {})
        at_step |= {our_name(name): value for name, value in row["values"].items()}
        if row["time"] is not None:
            at_step["time"] = row["time"]


def our_name(name: str) -> str:
    """Returns what we call a metric: those of a training without `train`, those of an evaluation with `eval/`."""
    for prefix, ours in (("train/", ""), ("eval_", "eval/")):
        if name.startswith(prefix) and name != prefix:
            return ours + name.removeprefix(prefix)
    return name


def merged(parts: Iterable[Part]) -> Part:
    """Returns all that is known of a run; where several tell the same, the first counts."""
    parts = list(parts)
    whole = Part(" and ".join(dict.fromkeys(part.kind for part in parts)))
    for part in parts:
        whole.fixed = {**part.fixed, **whole.fixed}
        whole.config = {**part.config, **whole.config}
        whole.final = {**part.final, **whole.final}
        whole.missing += part.missing
        whole.problems.found += part.problems.found
        for step, values in part.curves.items():
            whole.curves[step] = {**values, **whole.curves.get(step, {})}
    return whole
