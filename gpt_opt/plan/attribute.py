"""Attributes an error of Hydra to overrides of a point, and says what is wrong with each."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from omegaconf.errors import InterpolationResolutionError, InterpolationToMissingValueError

from gpt_opt.config.explain import missing_keys, missing_problem
from gpt_opt.config.suggest import UNKNOWN_KEY
from gpt_opt.errors import Problem
from gpt_opt.plan.compose.composer import ComposeFailure, Composer
from gpt_opt.plan.compose.hydra import unresolved, without_hydra
from gpt_opt.plan.config_source import ConfigSource, key_of
from gpt_opt.plan.explain_errors import YamlErrors, first_lines, interpolation_problem
from gpt_opt.plan.explain_overrides import override_problems

_IS_TEXT = (
    "values of a sweep file are never interpolated, so that ${{...}} is text there: write the value, or give "
    "'{}=${{...}}' after the file, which holds for every point"
)


class ErrorAttribution:
    """Attributes the errors of points to their overrides; each override is tried once for each choice of options.

    Args:
        source: The config folder.
        composer: Composes points.
        files: Explains the files of the folder.
        check: Returns the problems of the point that some overrides give, none where it cannot be composed.
    """

    def __init__(
        self,
        source: ConfigSource,
        composer: Composer,
        files: YamlErrors,
        check: Callable[[tuple[str, ...]], list[Problem]],
    ) -> None:
        self._source, self._composer, self._files, self._check = source, composer, files, check
        self._root: list[Problem] | None = None
        self._by_text: dict[tuple[str, ...], list[Problem]] = {}
        self._unknown_keys: dict[tuple[str, ...], list[Problem]] = {}

    def problems(self, overrides: tuple[str, ...], error: Exception) -> list[Problem]:
        """Tries the overrides one by one, on top of the group choices that can be composed.

        What is wrong with the rest of the point is told too, unless it is a file that is wrong: what follows from it
        cannot be known.

        Args:
            overrides: The point.
            error: What Hydra raised for it.
        """
        if self._root is None:
            self._root = self._files.root_problems()
        if self._root:
            return self._root
        wrong: dict[str, list[Problem]] = {}
        groups: list[str] = []
        for text in sorted(overrides, key=lambda item: not self._source.is_group(item)):
            if found := self._problems_of(text, tuple(groups)):
                wrong[text] = found
            elif self._source.is_group(text):
                groups.append(text)
        if not wrong:
            return self._of_no_override(overrides, error)
        if files := [text for text in wrong if self._source.exists(text)]:
            return list(dict.fromkeys(problem for text in files for problem in wrong[text]))
        keys = {key_of(text) for text in wrong}
        rest = self._check(tuple(text for text in overrides if text not in wrong))
        if any(text.startswith("+") and self._source.is_group(text) for text in wrong):  # would have given more keys
            rest = [item for item in rest if not item.message.startswith("is mandatory")]
        return [
            *(problem for found in wrong.values() for problem in found),
            *(problem for problem in rest if problem.where not in keys),
        ]

    def _problems_of(self, text: str, groups: tuple[str, ...]) -> list[Problem]:
        """Returns what is wrong with one override on top of some group choices."""
        name, alike = (text, *groups), (text.partition("=")[0], *groups)
        if alike in self._unknown_keys:  # whatever its value
            return self._unknown_keys[alike]
        if name not in self._by_text:
            try:
                # A point that fails only for a missing mandatory value is no fault of the text.
                if isinstance(next(self._composer.compose_many([[*groups, text]])), ComposeFailure):
                    self._source.compose([*groups, text])
                self._by_text[name] = []
            except Exception as error:  # whatever Hydra raises for this text, and YAML for a file that it names
                found = self._by_text[name] = override_problems(text, error, groups, self._source, self._files)
                if not self._source.exists(text) and found[0].message.startswith(UNKNOWN_KEY):
                    self._unknown_keys[alike] = found
        return self._by_text[name]

    def _of_no_override(self, overrides: tuple[str, ...], error: Exception) -> list[Problem]:
        """Returns the problems of a point whose error comes of no single override."""
        missing = self._missing(overrides)
        follows = isinstance(error, InterpolationToMissingValueError) or "Missing mandatory value" in str(error)
        return missing if missing and follows else [self._unresolved(overrides, error), *missing]

    def _missing(self, overrides: tuple[str, ...]) -> list[Problem]:
        """Returns the missing keys of a point that composes but cannot be resolved because of them."""
        try:
            config = self._source.compose(overrides)
        except Exception:  # whatever Hydra raises is told as the error of the point
            return []
        choices = self._source.choices(overrides)
        missing = sorted(missing_keys(unresolved(without_hydra(config))))
        return [missing_problem(key, self._source.configs.folder, choices) for key in missing]

    def _unresolved(self, overrides: Sequence[str], error: Exception) -> Problem:
        """Returns the problem of a point that cannot be resolved."""
        valid, choices = self._source.valid_keys(overrides), self._source.choices(overrides)
        names = [*self._source.names(overrides), *(f"{group}/{option}" for group, option in choices.items())]
        where = self._files.interpolation(names, error, valid)
        if where is None and isinstance(error, InterpolationResolutionError):
            text = next((text for text in overrides if "${" in text), " ".join(overrides))
            if "\\${" in text:
                value = first_lines(error).removeprefix("While dereferencing interpolation ").partition(": ")[2]
                return Problem(text, value, _IS_TEXT.format(key_of(text)))
            return Problem(text, *interpolation_problem(error, valid))
        return where or Problem(" ".join(overrides), first_lines(error))
