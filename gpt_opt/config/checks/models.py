"""What must hold for the weights of the models, their types and where they come from."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gpt_opt.config.checks.losses import has_reference, keeps_reference
from gpt_opt.config.contents import model_files, pointer, pointer_in
from gpt_opt.config.files import WEIGHT_KEYS, file_values
from gpt_opt.config.nested import Config
from gpt_opt.config.remember import Remembered
from gpt_opt.config.suggest import checkpoint_of_run, existing_path
from gpt_opt.errors import Problem
from gpt_opt.records.run_dir import RunPaths
from gpt_opt.records.run_reference import RunReference
from gpt_opt.records.state import read_run

ALL_LINEAR = "all-linear"
"""Value of `lora.target_modules` for every linear module but the output, in PEFT's words."""


WEIGHT_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".safetensors")
"""Suffixes of files of weights."""

WEIGHT_FILES = (
    "model.safetensors",
    "pytorch_model.bin",
    "model.safetensors.index.json",
    "pytorch_model.bin.index.json",
)
"""Names of the weights in a folder of a model; an index names several files."""


_TOKENIZER = "model.tokenizer_name_or_path"


def is_on_disk(name: str) -> bool:
    """Returns whether a name can only be that of a file or folder, not one on the hub."""
    likely = name.startswith(("/", ".", "~")) or name.count("/") > 1 or Path(name).suffix in WEIGHT_SUFFIXES
    return likely or Path(name).exists()


def source_problems(config: Config, memo: Remembered | None = None) -> Iterator[Problem]:
    """Checks that folders of models and files of weights are there, and are what their keys take.

    Args:
        config: The resolved config, with real paths.
        memo: What was found for other configs of the same request: each file is looked at once.
    """
    memo = memo or Remembered()
    for key, name in file_values(config, WEIGHT_KEYS):
        if key != _TOKENIZER or name != config["model"].get("name_or_path"):  # else said of the model
            yield from memo(_file_problems, key, name)


def _file_problems(key: str, name: str) -> list[Problem]:
    return list(_problems_of(key, name, Path(name).expanduser()))


def _problems_of(key: str, name: str, path: Path) -> Iterator[Problem]:
    is_run = RunReference.parse(name) is not None or name.startswith("best:")
    if is_run if key == "model.archive" else not is_on_disk(name):
        return  # what holds of a run to start from is said by gpt_opt.own_app.parents
    if found := pointer_in(path, model_files(path)) if path.is_dir() else pointer(path):
        yield Problem(key, f"{name} {found[0]}", found[1])
    if key != _TOKENIZER and (path / "adapter_config.json").is_file():
        yield adapters_alone(key, name)
    elif key == "model.archive":
        yield from _archive_problems(name, path)
    elif path.is_file():
        fix = "a file of weights is model.archive, over a model of its shape" if key == "model.name_or_path" else ""
        yield Problem(key, f"must be a hub id or a folder, but {name!r} is a file", fix)
    elif not path.is_dir():
        problem = f"must be a hub id or a folder, but {name!r} does not exist"
        yield Problem(key, problem, existing_path(key, path))
    elif key != _TOKENIZER and (not (path / "config.json").is_file() or (path / "state.json").is_file()):
        problem = f"must be a folder written by save_pretrained, but {name!r} has no config.json of a model"
        yield Problem(key, problem, checkpoint_of_run(key, path))


def _archive_problems(archive: str, path: Path) -> Iterator[Problem]:
    if not path.exists():
        problem = f"must be `embedded`, null, or a file or folder of weights, but {archive!r} does not exist"
        yield Problem("model.archive", problem, existing_path("model.archive", path))
    elif path.is_dir() and not any((path / name).is_file() for name in WEIGHT_FILES):
        problem = (
            f"must be a file of weights or a folder with {' or '.join(WEIGHT_FILES[:2])}, but {archive!r} has none"
        )
        if (run := RunPaths(path)).state.is_file():  # of a complete one, its final checkpoint is here by now
            problem = f"must be a complete run that has a checkpoint, but {archive!r} is {read_run(run).state}"
        yield Problem("model.archive", problem, checkpoint_of_run("model.archive", path))


LISTED = ("name", "name_or_path", "huggingface_id", "trust_remote_code")
"""Keys of an entry of `models`; huggingface_id is another name of name_or_path."""


def listed_model(models: Any, index: Any, key: str) -> Any:
    """Returns what entry `index` of `models` says of the key `key` of the group model.

    An entry is a hub id or folder, or a mapping with `LISTED` keys. Where it is neither, or there is none, the result
    is a string that names its index; `listed_problems` says what is wrong.
    """
    entry = models[index] if isinstance(models, list) and _is_index(index, models) else None
    if isinstance(entry, str):
        entry = {"name_or_path": entry}
    if not isinstance(entry, Mapping):
        entry = {}
    if key == "trust_remote_code":
        return entry.get(key) or False
    name = entry.get("name_or_path") or entry.get("huggingface_id") or f"models[{index}]"
    return (entry.get("name") or name) if key == "name" else name


def _is_index(index: Any, models: list[Any]) -> bool:
    return isinstance(index, int) and 0 <= index < len(models)


def listed_problems(config: Config) -> Iterator[Problem]:
    """Checks that `models` lists models, and that `model_index` chooses the one that is trained."""
    models, index = config["models"], config["model_index"]
    if (models is None) != (index is None):
        problem = f"models and model_index must be given together, but are {models} and {index}"
        yield Problem("model_index", problem, "take them from +exp=multi_model_dpo")
    if models is None or index is None:
        return
    for number, entry in enumerate(models):
        yield from _entry_problems(f"models[{number}]", entry)
    if not _is_index(index, models):
        valid = f"0 to {len(models) - 1}" if models else "none, since it is empty"
        yield Problem("model_index", f"must be an index of models, {valid}, but is {index}")
        return
    wanted, taken = listed_model(models, index, "name_or_path"), config["model"].get("name_or_path")
    if taken not in (wanted, os.path.realpath(os.path.expanduser(wanted))):  # a folder has its real path by now
        problem = f"is {index} and models[{index}] is {wanted}, but the model of this config is {taken or 'another'}"
        fix = "take +exp=multi_model_dpo, in which they choose the model, or leave models and model_index out"
        yield Problem("model_index", problem, fix)


def _entry_problems(where: str, entry: Any) -> Iterator[Problem]:
    if isinstance(entry, str):
        return
    fix = "write {name: my-model, name_or_path: HUB_ID_OR_FOLDER, trust_remote_code: false}"
    if not isinstance(entry, Mapping):
        yield Problem(where, f"must be a hub id, a folder or a mapping, but is {entry!r}", fix)
        return
    if unknown := [key for key in entry if key not in LISTED]:
        yield Problem(where, f"has the keys {', '.join(LISTED)}, but not {', '.join(unknown)}", fix)
    paths = [entry[key] for key in ("name_or_path", "huggingface_id") if entry.get(key) is not None]
    if len(paths) != 1 or not isinstance(paths[0], str):
        yield Problem(where, f"must have one text name_or_path (or huggingface_id), but has {paths or 'none'}", fix)
    for key, kind in {"name": str, "trust_remote_code": bool}.items():
        if not isinstance(entry.get(key, kind()), kind):
            yield Problem(where, f"{key} must be a {_KINDS[kind]}, but is {entry[key]!r}", fix)


_KINDS = {str: "text", bool: "true or false"}


def weight_problems(config: Config) -> Iterator[Problem]:
    """Checks that the types of the weights can be trained with and that each is used."""
    model, lora = config["model"], config["lora"]
    policy = model.get("policy_dtype")
    reference = model.get("reference_dtype", policy)
    if reference != policy and not keeps_reference(config):
        why = "with lora the base weights are the reference" if has_reference(config) else "the loss has no reference"
        yield Problem(
            "model.reference_dtype", f"is {reference}, but would be ignored: {why}", "leave it at its default"
        )
    if policy == "float16" and (not lora or lora.get("bias", "none") != "none"):
        trained = f"lora.bias={lora['bias']} trains some of them" if lora else "all weights are trained"
        yield Problem(
            "model.policy_dtype",
            f"must be float32 or bfloat16 where {trained}: float16 loses their updates; but is float16",
            "for float16 activations: model.policy_dtype=float32 training.training_params.mixed_precision=fp16",
        )
    mixed = config["training"]["training_params"]["mixed_precision"]
    attention = model.get("attn_implementation") or ""
    if attention.startswith("flash_attention") and policy == "float32" and mixed == "no":
        yield Problem(
            "model.attn_implementation",
            f"{attention} computes in 16 bits, but policy_dtype is float32 and mixed_precision is no",
            "set model.policy_dtype=bfloat16, or training.training_params.mixed_precision=bf16",
        )


def adapters_alone(key: str, name: str) -> Problem:
    """Returns what to say where a whole model is needed, but `name`, the value of `key`, holds adapters."""
    problem = f"must be a whole model, but {name!r} holds adapters alone"
    return Problem(key, problem, f"merge them first: gptopt export {name}")
