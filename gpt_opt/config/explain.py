"""Messages about what is wrong with a config: its keys, those that are missing, and what a key means."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from gpt_opt.config.yaml_files import ConfigFile
from gpt_opt.errors import Problem


def flat_keys(config: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yields the dotted key of every value of nested mappings."""
    for key, value in config.items():
        yield f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from flat_keys(value, f"{prefix}{key}.")


def keys_like(config: DictConfig, key: str) -> list[str]:
    """Returns the keys of a composed config among which a misspelt one belongs: Hydra's own, or all others."""
    plain = cast("dict[str, Any]", OmegaConf.to_container(config))
    return [name for name in flat_keys(plain) if name.startswith("hydra.") == key.startswith("hydra.")]


def missing_keys(value: Any, prefix: str = "") -> Iterator[str]:
    """Yields the keys in a plain tree that hold "???": `a.b`, `a[0]` inside lists, the prefix for a scalar.

    OmegaConf's own function of this name fails at an interpolation of a missing key.
    """
    if isinstance(value, dict):
        for key, child in value.items():
            yield from missing_keys(child, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(value, list):
        for index, child in enumerate(value):
            yield from missing_keys(child, f"{prefix}[{index}]")
    elif isinstance(value, str) and value == "???":
        yield prefix


def comment_of(key: str, config_dir: Path | None, choices: Mapping[str, str]) -> str:
    """Returns the comment beside `key` in the YAML file that declares it, or an empty string.

    Args:
        key: Dotted key such as `loss.beta`.
        config_dir: The folder of the configs; None where there is none.
        choices: The chosen option of each group, `{"loss": "dpo"}`.
    """
    if config_dir is None:
        return ""
    group = key.partition(".")[0]
    for name in (f"{group}/{choices.get(group, '')}", "config"):
        path = config_dir / f"{name}.yaml"
        if path.is_file() and (comment := _read(name, path, path.stat().st_mtime_ns).comment(key.split("."))):
            return comment
    return ""


@lru_cache(maxsize=64)
def _read(name: str, path: Path, changed_ns: int) -> ConfigFile:
    return ConfigFile(name, path)


_EXAMPLES = {
    "loss.beta": "0.1",
    "data.dataset.path": "prefs.jsonl",
    "exp_name": "my-experiment",
    "model.name_or_path": "openai-community/gpt2",
}


def missing_problem(key: str, config_dir: Path | None, choices: Mapping[str, str]) -> Problem:
    """Returns the problem of a mandatory key that nobody gave: what it means and what to type."""
    meaning, (of_list, bracket, _) = comment_of(key, config_dir, choices), key.partition("[")
    return Problem(
        key,
        "is mandatory and has no default" + (f": {meaning}" if meaning else ""),
        f"give the whole list: {of_list}=[...]" if bracket else f"add for example: {key}={_EXAMPLES.get(key, 'VALUE')}",
    )
