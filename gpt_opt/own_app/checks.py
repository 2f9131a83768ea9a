"""What gpt-opt's own training asks of the points of a request."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from gpt_opt.app.app import Checks, Source
from gpt_opt.config.checks.constraints import constraint_problems
from gpt_opt.config.checks.models import listed_model
from gpt_opt.config.nested import Config
from gpt_opt.config.remember import Remembered
from gpt_opt.errors import Problem
from gpt_opt.own_app.added_keys import AddedKeys
from gpt_opt.own_app.parents import parent_problems
from gpt_opt.records.run_reference import RunIndex


class TrainingChecks(Checks):
    """The checks of a request."""

    def __init__(self, source: Source) -> None:
        self._added = AddedKeys(source)
        self.begin({}, Remembered())

    def begin(self, planned: Mapping[str, Config], memo: Remembered) -> None:
        """Begins with the points of a request, which may start from runs that are planned."""
        self._planned, self._memo, self._index = planned, memo, RunIndex()

    def added(self, overrides: Sequence[str], config: Config) -> list[Problem]:
        """Returns the problems of added keys that nothing reads."""
        return list(self._added.problems(overrides, config))

    def ignored(self, overrides: Sequence[str], config: Config) -> Iterable[Problem]:
        """Returns the problems of overrides that would change nothing."""
        return [*_lost_trackers(overrides), *_lost_model(overrides, config)]

    def wrong(self, config: Config) -> Iterable[Problem]:
        """Returns what contradicts itself in a config, and what it cannot start from."""
        parents = parent_problems(config, self._planned, self._index, self._memo)
        return [*constraint_problems(config, self._memo), *parents]


def _lost_trackers(overrides: Iterable[str]) -> Iterator[Problem]:
    """Refuses several options of logging: each sets the whole list report_to, so that only the last would count."""
    for text in overrides:
        key, _, value = text.partition("=")
        if key.lstrip("+") == "logging" and value.startswith("[") and "," in value:
            fix = f"write logging.logging_params.report_to={value} in its place"
            yield Problem("logging", f"takes one option, but {text!r} gives several", fix)


def _lost_model(overrides: Iterable[str], config: Config) -> Iterator[Problem]:
    """Refuses an option of the group model beside `models`: the experiment's list would choose the weights anyway."""
    models, index = config["models"], config["model_index"]
    for text in overrides if models is not None and index is not None else ():
        key, _, value = text.partition("=")
        if key == "model" and value != "hf":
            chosen = listed_model(models, index, "name_or_path")
            problem = f"is chosen by models[{index}]={chosen} of the experiment, so {text!r} would be ignored"
            fix = f"choose by model_index, or by models=[...]; or leave the experiment out: +exp=hh_dpo {text}"
            yield Problem("model", problem, fix)
