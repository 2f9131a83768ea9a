"""The one exception root of gpt-opt and its few subclasses.

Only the command line turns these into exit codes: 2 for a wrong request, 1 for a run that failed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass


class GptOptError(Exception):
    """Root of every error that gpt-opt raises on purpose."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a request.

    Attributes:
        where: The config key, or `file:line`, that the problem is about.
        message: What must hold and what came instead.
        fix: What to do next; may be empty when the message already says so.
    """

    where: str
    message: str
    fix: str = ""

    def __str__(self) -> str:
        return f"{self.where}: {self.message}" + (f"\n      {self.fix}" if self.fix else "")


class RequestError(GptOptError):
    """A request that cannot be carried out as asked; carries all of its problems at once (exit code 2)."""

    def __init__(self, problems: Sequence[Problem], consequence: str = "") -> None:
        self.problems = tuple(problems)
        count = "1 problem" if len(self.problems) == 1 else f"{len(self.problems)} problems"
        super().__init__("\n".join([f"{count}{consequence}:", *(f"  - {p}" for p in self.problems)]))


class ConfigError(RequestError):
    """The configuration is incomplete or contradicts itself."""


class SweepError(RequestError):
    """A sweep file does not describe a sweep."""


class DataError(RequestError):
    """Training data cannot be used as it is."""


class ClaimLost(GptOptError):
    """Another process owns the run directory now; this one must not write to it any more."""


class RunFailed(GptOptError):
    """A run ended without a result; its state.json says why (exit code 1)."""


def exit_code(main: Callable[[], None]) -> int:
    """Calls `main`, prints the error that ends it, and returns the exit code of the process.

    Returns:
        0 fine, 1 a run failed or was interrupted, 2 the request was wrong.
    """
    try:
        main()
    except RequestError as error:
        print(error, file=sys.stderr)
        return 2
    except GptOptError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:  # a file system that is full, not ours, or not there: its own words say it best
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as stop:
        print(f"stopped: {stop}".removesuffix(": "), file=sys.stderr)
        return 1
    return 0
