"""The problems of many points, told once."""

from __future__ import annotations

from collections.abc import Iterable

from gpt_opt.errors import Problem


class Findings:
    """Problems of many points: equal ones are one line with their number and the first point that has them."""

    def __init__(self) -> None:
        self._points: dict[Problem, tuple[int, int]] = {}

    @property
    def any(self) -> bool:
        """Whether there are problems."""
        return bool(self._points)

    def add(self, problems: Iterable[Problem], point: int) -> None:
        """Notes the problems of a point."""
        for problem in problems:
            count, first = self._points.get(problem, (0, point))
            self._points[problem] = (count + 1, first)

    def report(self, total: int) -> list[Problem]:
        """Returns each distinct problem once, with a count unless all `total` points have it."""
        return [self._counted(problem, total) for problem in self._points]

    def _counted(self, problem: Problem, total: int) -> Problem:
        count, first = self._points[problem]
        if total == 1 or count == total:
            return problem
        shared = f"{count} of {total} points, the first is point {first}" if count > 1 else f"point {first} of {total}"
        return Problem(problem.where, f"{problem.message} ({shared})", problem.fix)
