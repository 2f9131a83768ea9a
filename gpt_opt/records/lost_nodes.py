"""lost_nodes.json of a sweep: the nodes whose slots did not start for the last driver, each with the reason."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from gpt_opt.records.io import read_json_or_empty, to_json, write_text


def write_lost_nodes(file: Path, lost: Mapping[str, str]) -> None:
    """Replaces what is known of lost nodes: name to reason."""
    write_text(file, to_json(lost))


def read_lost_nodes(file: Path) -> dict[str, str]:
    """Returns the lost nodes, name to reason; none where the file is absent or not one of ours."""
    return {node: str(reason) for node, reason in read_json_or_empty(file).items()}


def forget_lost_nodes(file: Path) -> None:
    """Starts anew, for a new driver or other jobs."""
    file.unlink(missing_ok=True)
