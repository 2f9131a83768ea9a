"""What the runs of a sweep have in common and what tells them apart, from their override strings alone."""

from __future__ import annotations

from collections.abc import Sequence


def parameters(overrides: Sequence[str]) -> dict[str, str]:
    """Returns override strings as key and value."""
    return {key: value for key, _, value in (text.partition("=") for text in overrides)}


def common_and_varying(runs: Sequence[Sequence[str]]) -> tuple[dict[str, str], list[str]]:
    """Splits the overrides of runs.

    Returns:
        The overrides that all runs share, and the keys that vary, in order of appearance.
    """
    seen: dict[str, dict[str, None]] = {}
    counts: dict[str, int] = {}
    for overrides in runs:
        for key, value in parameters(overrides).items():
            seen.setdefault(key, {})[value] = None
            counts[key] = counts.get(key, 0) + 1
    varying = [key for key, values in seen.items() if len(values) > 1 or counts[key] < len(runs)]
    return {key: next(iter(values)) for key, values in seen.items() if key not in varying}, varying


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """Returns the last part of each key, or the whole key where several end alike."""
    leaves = [key.rpartition(".")[2] for key in keys]
    return {key: leaf if leaves.count(leaf) == 1 else key for key, leaf in zip(keys, leaves, strict=True)}
