"""What must hold of the `data` group."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gpt_opt.config.checks.pretraining import SHARDS
from gpt_opt.config.contents import COMPRESSED_SUFFIXES, FORMS, has_data_suffix, instead_of_data
from gpt_opt.config.suggest import existing_path
from gpt_opt.errors import Problem

DATA_SUFFIXES = (*FORMS, *COMPRESSED_SUFFIXES)
"""Suffixes of data files: what does not exist and has none of them may be a name on the hub."""

TRAIN = "train"
"""The one split of a file."""


PUBLISHED = {
    "Anthropic/hh-rlhf": "hh",
    "stanfordnlp/SHP": "shp",
    "HuggingFaceH4/ultrafeedback_binarized": "ultrafeedback",
}
"""Names on the hub whose rows have a layout of their own, with the option of the group data that reads it."""


def data_option(name: str, config_dir: Path) -> dict[str, str]:
    """Returns the settings of the data that `name` stands for: an option, or a name on the hub, a folder or a file.

    Args:
        name: The name.
        config_dir: The folder hydra_conf.
    """
    if name in PUBLISHED:
        return {"data": PUBLISHED[name]}
    if (config_dir / "data" / f"{name}.yaml").is_file():
        return {"data": name}
    return {"data": "hf", "data.dataset.path": name}


def data_problems(config: Mapping[str, Any]) -> Iterator[Problem]:
    """Yields what contradicts itself in the `data` group of a resolved config."""
    yield from _dataset_problems("data.dataset", config["data"]["dataset"])


def _dataset_problems(key: str, dataset: Mapping[str, Any]) -> Iterator[Problem]:
    fraction, samples = dataset.get("validation_split"), dataset.get("max_samples")
    if "validation_split" in dataset and not isinstance(fraction, str) and not _is_fraction(fraction):
        meaning = " (or it names a split)" if "split" in dataset else ""
        yield Problem(f"{key}.validation_split", f"0 < validation_split < 1 must hold{meaning}, but it is {fraction}")
    if samples is not None and samples < 1:
        yield Problem(f"{key}.max_samples", f"must be at least 1, or null for all, but is {samples}")
    for name, least in (("rows", 1), ("max_terms", 2)):
        if dataset.get(name, least) < least:
            yield Problem(f"{key}.{name}", f"must be at least {least}, but is {dataset[name]}")
    ratio = dataset.get("min_score_ratio")
    if ratio is not None and not 1 <= ratio < float("inf"):
        yield Problem(f"{key}.min_score_ratio", f"must be a finite number of at least 1, but is {ratio}")
    if "path" in dataset and dataset.get("_target_") != SHARDS:
        yield from _path_problems(key, dataset)
        yield from _pattern_problems(key, Path(dataset["path"]).absolute())
    if "parts" in dataset:
        yield from _mixture_problems(key, dataset)


def _is_fraction(value: object) -> bool:
    return isinstance(value, int | float) and 0 < value < 1


def _path_problems(key: str, dataset: Mapping[str, Any]) -> Iterator[Problem]:
    path, has_splits = Path(dataset["path"]), "split" in dataset
    if instead := instead_of_data(path):
        yield Problem(f"{key}.path", f"{dataset['path']} {instead[0]}", instead[1])
    elif not path.exists() and (not has_splits or has_data_suffix(dataset["path"])):
        yield Problem(
            f"{key}.path",
            f"must be a file or a folder, but {str(path.absolute())!r} is none",
            existing_path(f"{key}.path", path),
        )
    elif not path.exists() and not _may_be_on_the_hub(dataset["path"]):
        problem = f"must be a file, a folder or a name on the hub, but {dataset['path']!r} is none"
        yield Problem(f"{key}.path", problem, existing_path(f"{key}.path", path))
    if not has_splits or path.is_dir() or not (path.is_file() or has_data_suffix(dataset["path"])):
        return
    for name, valid in (("split", TRAIN), ("subset", None)):
        if dataset[name] != valid:
            yield Problem(f"{key}.{name}", f"must be {valid or 'null'} with a file, but is {dataset[name]!r}")
    if isinstance(dataset["validation_split"], str):
        problem = f"must be a fraction, as 0.1, with a file: it has no split {dataset['validation_split']!r}"
        yield Problem(f"{key}.validation_split", problem)


def _may_be_on_the_hub(path: str) -> bool:
    return not path.startswith((".", "~", "/")) and path.count("/") <= 1


def _pattern_problems(key: str, folder: Path) -> Iterator[Problem]:
    """Yields a folder of data files in whose path `datasets` would see a pattern: it finds no file, or no split."""
    saved = ("dataset_dict.json", "state.json")
    if set("*?[") & set(str(folder)) and folder.is_dir() and not any((folder / name).is_file() for name in saved):
        problem = (
            f"must be a folder without *, ? and [ in its path, which `datasets` takes for patterns, but is {folder}"
        )
        yield Problem(f"{key}.path", problem, "give another name to that folder, or name a file in it")


def _mixture_problems(key: str, dataset: Mapping[str, Any]) -> Iterator[Problem]:
    parts, weights = dataset["parts"], dataset["weights"]
    if not parts or set(parts) != set(weights):
        yield Problem(
            f"{key}.weights",
            f"must name the parts, of which at least one is needed, but the weights are of {', '.join(weights) or '-'} "
            f"and the parts {', '.join(parts) or '-'}",
            "add a part with +data@data.dataset.parts.NAME=OPTION and its weight with +data.dataset.weights.NAME=0.5",
        )
    for name, weight in weights.items():
        if not 0 < weight < float("inf"):
            yield Problem(f"{key}.weights.{name}", f"must be a finite number above 0, but is {weight}")
    for name, part in parts.items():
        yield from _dataset_problems(f"{key}.parts.{name}.dataset", part["dataset"])
