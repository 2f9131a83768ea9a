"""Whether runs of a plan have a metric that the sweep file names: known before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gpt_opt.records.metrics import KnownMetrics, did_you_mean
from gpt_opt.records.run_dir import RunPaths
from gpt_opt.records.summary import read_summary


@dataclass(frozen=True)
class RunMetrics:
    """What is known of the metrics of a planned run.

    Attributes:
        expected: What the application says of them.
        result: Those that its summary.json has; None where it is not done.
    """

    expected: KnownMetrics
    result: frozenset[str] | None = None

    @property
    def names(self) -> frozenset[str]:
        """Metrics that it has, or may have."""
        return self.expected.names if self.result is None else self.result

    @property
    def is_complete(self) -> bool:
        """Whether it has no others."""
        return self.expected.complete or self.result is not None


def result_metrics(paths: RunPaths) -> frozenset[str] | None:
    """Returns the metrics that the result of a run has; None where that cannot be read."""
    try:
        return frozenset(read_summary(paths)["metrics"])
    except (OSError, ValueError, LookupError, TypeError):
        return None


@dataclass(frozen=True)
class MissingMetric:
    """A metric that no run is known to have.

    Attributes:
        name: Its name.
        message: That it must be one of the runs.
        fix: Which one may be meant; may be empty.
        certain: Whether the sweep cannot do with it.
    """

    name: str
    message: str
    fix: str
    certain: bool

    @property
    def doubt(self) -> str:
        """What to say where code of the user's may give it."""
        meant = f"; unless your code logs it, {self.fix}" if self.fix else ""
        return f"no run is known to have {self.name!r}{meant}"


def missing_metric(name: str, runs: Sequence[RunMetrics], decides: bool) -> MissingMetric | None:
    """Returns what is wrong with the name of a metric; None if a run has it, or nothing is known of any.

    Args:
        name: The metric.
        runs: Those that should have it.
        decides: Whether the sweep goes on from the best of them by it: a result is as it is then; of runs that are only
            shown by it one may be done again.
    """
    names = frozenset[str]().union(*(run.names for run in runs))
    done = sum(run.result is not None for run in runs)
    if name in names or not (names or done):
        return None
    foreseen = all(run.expected.complete and name not in run.expected.names for run in runs)
    has_none = "the run that is done has no" if done == 1 else f"none of the {done} runs that are done has"
    message = f"must be a metric of the runs, but {has_none if done else 'is'} {name!r}"
    certain = foreseen or (decides and all(run.is_complete for run in runs))
    return MissingMetric(name, message, did_you_mean(name, names), certain)
