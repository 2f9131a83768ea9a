"""Whether the best setting is better than the others, or only luckier."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analysis.answers.settings import OVER, Setting
from analysis.parameters import short_names
from analysis.stats import ALPHA, Floats, adjusted_means, all_pairs, seeds_needed


def number_of(count: int | None, over: str) -> str:
    """Returns `3 seeds`, `1 seed`, `2 values of lr`; without a number for None."""
    name = short_names([over])[over]
    many = "" if count == 1 else "s"
    words = f"seed{many}" if over == OVER else f"value{many} of {name}"
    return words if count is None else f"{count} {words}"


_TESTS = {
    "paired t-test": (
        " on shared {seeds}",
        "the differences between runs of one {seed} are independent and about normally distributed",
    ),
    "Welch's t-test": (
        " with the degrees of freedom of the smaller setting",
        "the values of a setting are independent and about normally distributed",
    ),
}
"""Name of a test to how it is made, and what it takes for granted."""


@dataclass(frozen=True)
class Pair:
    """The best setting and another one.

    Attributes:
        other: The other setting.
        test: `paired t-test`, `Welch's t-test`, or "" where one of the two has fewer than two runs.
        n: Seeds that both have, or runs of the setting with fewer.
        difference: Mean of the best minus that of the other, over these seeds.
        p: Corrected for all pairs of settings; NaN without a test.
        agrees: Whether the best is better in these seeds; where settings have different ones, it need not be.
        constant: Whether the values do not vary over seeds, so that chance cannot be estimated; p is 1.
        seeds: Seeds a setting with which such a difference would be found, if it is what it seems; None where that
            cannot be said or is very many.
    """

    other: Setting
    test: str
    n: int
    difference: float
    p: float
    agrees: bool = True
    constant: bool = False
    seeds: int | None = None

    @property
    def distinguishable(self) -> bool:
        """Whether the difference is more than chance, and in favour of the best."""
        return self.agrees and self.p <= ALPHA


@dataclass(frozen=True)
class Comparison:
    """The best setting against all others.

    Attributes:
        best: The setting with the best mean.
        pairs: One for every other setting that has a mean, the next best first.
        tests: Number of tests that were corrected for: all pairs of settings with at least two runs.
        over: What runs of one setting differ in.
        is_adjusted: Whether some settings lack seeds that others have, so that all are ranked as if they had them.
    """

    best: Setting
    pairs: tuple[Pair, ...]
    tests: int
    over: str = OVER
    is_adjusted: bool = False

    @property
    def next(self) -> Pair | None:
        """The best setting against the next one; None where there is no other."""
        return self.pairs[0] if self.pairs else None

    @property
    def distinguishable(self) -> bool | None:
        """Whether the best setting is better than the next by more than chance; None where nothing can tell."""
        return None if self.next is None or not self.next.test else self.next.distinguishable

    @property
    def tied(self) -> bool:
        """Whether the next setting has the very same mean."""
        return self.next is not None and self.next.other.mean == self.best.mean

    @property
    def method(self) -> str:
        """The test, what it assumes and how it is corrected; empty where there was none."""
        names = list(dict.fromkeys(pair.test for pair in self.pairs if pair.test))
        if not names:
            return ""
        words = {"seed": short_names([self.over])[self.over], "seeds": number_of(None, self.over)}
        tests = " and ".join(name + _TESTS[name][0].format(**words) for name in names)
        assumed = "; ".join(_TESTS[name][1].format(**words) for name in names)
        method = f"{tests}, distinguishable at p up to {ALPHA:g}, assuming that {assumed}"
        if self.tests < 2:
            return method
        return f"{method}; p is Holm's for all {self.tests} pairs of settings, as the best was chosen by its values"


def ranked(settings: Sequence[Setting], greater: bool) -> list[Setting]:
    """Returns the settings that have a mean, the best first; one of which a run diverged comes after all others.

    Where settings have different seeds so far, they are ranked as if all had all: see `analysis.stats.adjusted_means`.

    Args:
        settings: What `settings` returned.
        greater: Whether greater values of the metric are better.
    """
    means = _ranking_means(settings)
    known = [item for item in settings if item.n]
    return sorted(known, key=lambda item: (item.diverged > 0, -means[id(item)] if greater else means[id(item)]))


def _ranking_means(settings: Sequence[Setting]) -> dict[int, float]:
    known = [item for item in settings if item.n]
    means = adjusted_means(_samples(known)).tolist() if known else []
    return dict(zip(map(id, known), means, strict=True))


def _samples(settings: Sequence[Setting]) -> Floats:
    """Returns the values of settings, a row each, a column for each seed that one of them has."""
    every = dict.fromkeys(block for item in settings for block in item.samples)
    blocks = {block: index for index, block in enumerate(every)}
    samples = np.full((len(settings), len(blocks)), math.nan)
    for row, item in enumerate(settings):
        samples[row, [blocks[block] for block in item.samples]] = list(item.samples.values())
    return samples


def compare(settings: Sequence[Setting], greater: bool, over: str = OVER) -> Comparison | None:
    """Compares the best setting with all others; None where no setting has a mean.

    Each pair is tested on the seeds that both have, by Welch's test where they share few, and p is
    corrected for all pairs: whichever setting is the best, its comparisons are among them. See
    `analysis.stats.all_pairs`.

    Args:
        settings: What `settings` returned.
        greater: Whether greater values of the metric are better.
        over: What runs of one setting differ in.
    """
    order = ranked(settings, greater)
    if not order:
        return None
    best, *others = order
    testable = [item for item in order if item.n > 1]
    tested = _tests(testable, greater) if best.n > 1 else {}
    pairs = tuple(tested.get(id(other)) or _untested(best, other) for other in others)
    tests = len(testable) * (len(testable) - 1) // 2
    means = _ranking_means(order)
    return Comparison(best, pairs, tests, over, not all(math.isclose(means[id(item)], item.mean) for item in order))


def _untested(best: Setting, other: Setting) -> Pair:
    shared = [best.samples[block] - other.samples[block] for block in best.samples if block in other.samples]
    difference = sum(shared) / len(shared) if shared else best.mean - other.mean
    return Pair(other, "", min(best.n, other.n), difference, math.nan)


def _tests(order: Sequence[Setting], greater: bool) -> dict[int, Pair]:
    """Returns the comparisons of the first setting with all others, by the identities of these."""
    tested = all_pairs(_samples(order))
    found = {}
    for index in np.flatnonzero(tested.first == 0).tolist():
        other, paired, n = order[tested.second[index]], bool(tested.paired[index]), int(tested.count[index])
        difference, deviation = float(tested.difference[index]), float(tested.error[index]) * math.sqrt(n)
        constant = bool(tested.constant[index])
        needed = None if constant else seeds_needed(difference, deviation, ALPHA / len(tested.first))
        name = "paired t-test" if paired else "Welch's t-test"
        agrees = difference >= 0 if greater else difference <= 0
        found[id(other)] = Pair(other, name, n, difference, float(tested.corrected[index]), agrees, constant, needed)
    return found
