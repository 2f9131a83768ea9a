"""What the YAML files of an application say of it: what cannot change a result, where it resumes from, what it logs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from gpt_opt.app.look_at_code import LOGGERS
from gpt_opt.app.source_tree import source_files
from gpt_opt.config.defaults_lists import ConfigFiles
from gpt_opt.config.yaml_files import ConfigFile

NO_RESULT = frozenset(
    {
        *("logger", "loggers", "logging", "wandb", "mlflow", "tensorboard", "neptune", "comet", "aim", "report_to"),
        *("paths", "output_dir", "out_dir", "log_dir", "logdir", "logging_dir", "save_dir", "checkpoint_dir"),
        *("ckpt_dir", "cache_dir", "work_dir", "workdir", "run_dir", "local_run_dir", "local_dirs", "root_dir"),
        *("save_path", "snapshot_path", "output_path", "log_path", "log_file"),
        *("exp_name", "experiment_name", "run_name", "job_name", "project_name", "tags", "notes", "note"),
        *("verbose", "print_config", "log_every", "log_every_n_steps", "log_interval", "logging_steps"),
    }
)
"""Names of keys that say where a run writes, what it shows or what it is called."""

RESUME = (
    *("ckpt_path", "resume_from_checkpoint", "resume_ckpt_path", "resume_ckpt", "resume_checkpoint"),
    *("resume_from", "resume_path", "resume"),
)
"""Names of keys that take a checkpoint to go on from, the clearest first."""

SEEDS = frozenset({"seed", "random_seed", "manual_seed", "global_seed"})
_NOTHING = ("null", "~", "", "None")


@dataclass(frozen=True)
class Logged:
    """A logger of the configs.

    Attributes:
        source: The source of metrics that reads what it writes.
        where: Its file.
        needs: The override that selects it; empty where it is selected by default.
    """

    source: str
    where: str
    needs: str


@dataclass(frozen=True)
class ConfigFacts:
    """What the configs say; keys are dotted.

    Attributes:
        exclude: Keys that cannot change a result, none below another.
        resume: The key that takes a checkpoint, None if there is none.
        checkpoints: Where below the run directory checkpoints go, None if no config says so.
        logs: The loggers, those that are selected by default first.
        seeds: Keys of seeds.
        reads_environment: Whether a value is taken from the environment.
    """

    exclude: tuple[str, ...] = ()
    resume: str | None = None
    checkpoints: str | None = None
    logs: tuple[Logged, ...] = ()
    seeds: tuple[str, ...] = ()
    reads_environment: bool = False


def look_at_config(folder: Path, name: str) -> ConfigFacts:
    """Returns what the YAML files of a folder say, of which `name` is the primary config."""
    paths = {str(path.relative_to(folder).with_suffix("")): path for path in source_files(folder, ".yaml")}
    files = [ConfigFile(option, path) for option, path in paths.items()]
    default = [file.name for file in ConfigFiles([folder], lambda group: (), name).behind([name])]
    values = {file.name: list(_values(file)) for file in files}
    every = [item for items in values.values() for item in items]
    selected = [item for option in default for item in values.get(option, [])]
    resume = (key for word in RESUME for key, value in selected if _leaf(key) == word and value in _NOTHING)
    checkpoints = (found for key, value in every if (found := _checkpoints(key, value)))
    return ConfigFacts(
        _outermost(key for key, _ in every),
        next(resume, None),
        next(checkpoints, None),
        tuple(sorted(_logs(values, frozenset(default)), key=lambda logged: bool(logged.needs))),
        tuple(dict.fromkeys(key for key, _ in selected if _leaf(key) in SEEDS)),
        any("${oc.env:" in value for _, value in every),
    )


def _values(file: ConfigFile) -> Iterator[tuple[str, str]]:
    """Yields the dotted keys of a file with their scalars; a list is its items, each under the key of the list."""
    group = file.name.rpartition("/")[0].replace("/", ".")
    above = {"_global_": "", "_group_": group, "": group}.get(file.package, file.package)
    if group.partition(".")[0] == "hydra" or above.partition(".")[0] == "hydra":
        return
    waiting: list[tuple[str, yaml.Node | None]] = [(above, file.parsed[0])]
    while waiting:
        key, node = waiting.pop()
        if isinstance(node, yaml.MappingNode):
            inside = [(f"{key}.{name.value}".lstrip("."), value) for name, value in node.value]
            waiting += [item for item in inside if item[0] not in (f"{above}.defaults".lstrip("."), "hydra")]
        elif isinstance(node, yaml.SequenceNode):
            waiting += [(key, item) for item in node.value]
        elif node is not None and key:
            yield key, str(node.value)


def _leaf(key: str) -> str:
    return key.rpartition(".")[2]


def _outermost(keys: Iterable[str]) -> tuple[str, ...]:
    """Returns the keys that have, or stand below, a name of `NO_RESULT`: of each path the part up to that name."""
    found = set()
    for key in keys:
        parts = key.split(".")
        end = next((place for place, part in enumerate(parts, start=1) if part in NO_RESULT), 0)
        found |= {".".join(parts[:end])} if end else set()
    return tuple(sorted(found))


def _checkpoints(key: str, value: str) -> str | None:
    """Returns where a `dirpath` of a ModelCheckpoint puts checkpoints, if that is below the run directory."""
    if _leaf(key) != "dirpath":
        return None
    found = re.fullmatch(r"(?:\$\{[^}]*\}/)?([\w./-]*)", value)
    below = found[1].strip("/") if found else ""
    return f"{below}/*.ckpt" if below and not value.startswith("/") and ".." not in below else None


def _logs(values: dict[str, list[tuple[str, str]]], default: frozenset[str]) -> Iterator[Logged]:
    seen: set[tuple[str, str]] = set()
    for option, items in values.items():
        for key, value in items:
            source = LOGGERS.get(_leaf(value), "") if _leaf(key) == "_target_" else ""
            group, _, name = option.rpartition("/")
            logged = Logged(source, f"{option}.yaml", "" if option in default or not group else f"{group}={name}")
            if source and (source, logged.needs) not in seen:
                seen.add((source, logged.needs))
                yield logged
