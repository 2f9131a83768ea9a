"""Items by the files that they come from, kept for the other runs of a sweep: each would read and tokenize them again.

Only data whose content is told by fingerprints is kept: files of the config, and the embedded text. What was said of
the data in the log is kept with the items and said again. An entry holds numbers and text only, and any entry may be
deleted at any time; see `gpt_opt.training.data.cache`, which knows data by its texts.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt_opt.config.cache import cache_folder
from gpt_opt.config.inputs import file_sha256
from gpt_opt.records.code import this_code
from gpt_opt.records.provenance import Inputs
from gpt_opt.training.data import cache
from gpt_opt.training.data.cache import flattened, read_entry, rows_of, tokenizer_settings, write_entry
from gpt_opt.training.data.prepare import Items
from gpt_opt.training.data.records import TokenizedExample, TokenizedPair
from gpt_opt.training.data.sources.pydoc import library_sha256

_FORMAT = 1
"""Changes whenever the layout of an entry changes."""

_OURS = "gpt_opt.training.data."
_SPLITS = ("train", "validation")
_KINDS: dict[str, type[TokenizedPair] | type[TokenizedExample]] = {"pairs": TokenizedPair, "examples": TokenizedExample}
_LOG = logging.getLogger("gpt_opt.training")


def items_once(
    make: Callable[[], Items], dataset: Mapping[str, Any], inputs: Inputs, tokenizer: Any, settings: Sequence[Any]
) -> Items:
    """Returns what `make` does, from the cache where it is there.

    Args:
        make: Makes the items, of nothing but the other arguments.
        dataset: `data.dataset`.
        inputs: The files of the run, with their fingerprints.
        tokenizer: Of the policy.
        settings: What else the items follow from, and what is said of them.
    """
    folder, content = cache_folder("items"), list(_content(dataset, "data.dataset", inputs))
    can_tell = hasattr(tokenizer, "backend_tokenizer") and _LOG.isEnabledFor(logging.INFO)
    if folder is None or None in content or not can_tell:
        return make()
    made_with = [_FORMAT, this_code().sha256, sys.version, *map(version, ("tokenizers", "transformers"))]
    parts = [made_with, dataset, content, settings, tokenizer_settings(tokenizer)]
    key = sha256(json.dumps(parts, default=str).encode(errors="surrogateescape")).hexdigest()
    file = folder / f"{key}.safetensors"
    if (entry := read_entry(file)) is not None:
        text, arrays = entry
        record = json.loads(text)
        for name, level, line in record["log"]:
            logging.getLogger(name).log(level, "%s", line)
        splits = [_unpacked(record["kinds"][split], split, arrays) for split in _SPLITS]
        return Items(splits[0], splits[1], record["report"], record["fingerprint"])
    with _lines() as lines:
        items = make()
    kinds = {split: _kind(getattr(items, split)) for split in _SPLITS}
    if all(kinds.values()) and _are_unchanged(inputs):
        record = {"log": lines, "kinds": kinds, "report": items.report, "fingerprint": items.fingerprint}
        packed = {name: array for split in _SPLITS for name, array in _packed(getattr(items, split), split)}
        write_entry(file, json.dumps(record), packed)
    return items


def _content(dataset: Mapping[str, Any], key: str, inputs: Inputs) -> Iterator[str | None]:
    """Yields fingerprints that tell the content of a data set and its parts; None for what nothing tells."""
    target = str(dataset.get("_target_"))
    if target == f"{_OURS}build_mixture":
        for name, part in dataset["parts"].items():
            yield from _content(part["dataset"], f"{key}.parts.{name}.dataset", inputs)
    elif target in (f"{_OURS}build_pydoc", f"{_OURS}build_pydoc_documents"):
        yield library_sha256()
    else:
        known = inputs.get(f"{key}.path")
        is_file = known is not None and target.startswith(_OURS) and Path(known["path"]).is_file()
        yield known["sha256"] if known is not None and is_file else None


def _are_unchanged(inputs: Inputs) -> bool:
    """Returns whether the files of the data still are what they were before the items were made of them."""
    files = [item for name, item in inputs.items() if name.startswith("data.") and Path(item["path"]).is_file()]
    try:
        return all(file_sha256(Path(item["path"])) == item["sha256"] for item in files)
    except OSError:
        return False


@contextmanager
def _lines() -> Iterator[list[tuple[str, int, str]]]:
    """Collects what is said inside the block: name of the logger, level and line."""
    lines: list[tuple[str, int, str]] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.name != cache.__name__:  # what a cache had to say is not of the data
                lines.append((record.name, record.levelno, record.getMessage()))

    collector = Collector(logging.INFO)
    _LOG.addHandler(collector)
    try:
        yield lines
    finally:
        _LOG.removeHandler(collector)


def _kind(items: Sequence[Any]) -> str | None:
    """Returns what all items are; None where they are something else."""
    found = {type(item) for item in items}
    return next((name for name, kind in _KINDS.items() if found == {kind}), None)


def _packed(items: Sequence[Any], split: str) -> Iterator[tuple[str, NDArray[Any]]]:
    ids, lengths = flattened([item.ids for item in items])
    yield f"{split}.ids", ids
    yield f"{split}.lengths", lengths
    yield f"{split}.desirable", np.array([getattr(item, "desirable", True) for item in items], dtype=np.bool_)


def _unpacked(kind: str, split: str, arrays: Mapping[str, NDArray[Any]]) -> list[Any]:
    rows = rows_of(arrays[f"{split}.ids"], arrays[f"{split}.lengths"])
    if kind == "pairs":
        return [TokenizedPair(*row) for row in rows]
    labels: list[bool] = arrays[f"{split}.desirable"].tolist()
    return [TokenizedExample(row[0], row[1], label) for row, label in zip(rows, labels, strict=True)]
