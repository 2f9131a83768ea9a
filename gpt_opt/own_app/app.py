"""gpt-opt's own training as an application: its config folder, its schemas, and everything that it asks of a run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_type_hints

from gpt_opt.app.app import App, Checks, Finder, Source, StartKeys
from gpt_opt.config.checks.batches import batch_problems
from gpt_opt.config.checks.losses import metrics_of
from gpt_opt.config.files import references, with_real_paths
from gpt_opt.config.inputs import inputs_of
from gpt_opt.config.nested import Config
from gpt_opt.config.remember import Remembered
from gpt_opt.config.schema import JOB_NAME, VERSION_BASE, Root, register
from gpt_opt.errors import Problem
from gpt_opt.own_app.checks import TrainingChecks
from gpt_opt.records.code import ROOT
from gpt_opt.records.metrics import KnownMetrics
from gpt_opt.records.program import Program
from gpt_opt.records.run_id import TRAINING
from gpt_opt.records.run_reference import RunReference
from gpt_opt.run.devices import sweep_device_problems
from gpt_opt.run.resolvers import RunFinder, register_resolvers
from gpt_opt.sweep.model import Resources

CONFIG_DIR = ROOT / "hydra_conf"

NOT_WORKLOAD = frozenset({"max_steps", "num_epochs", "n_examples", "warmup_steps", "max_grad_norm", "save_total_limit"})
"""Keys of training_params that do not change how long a step takes."""


class TrainingApp(App):
    """The training of language models that run_hydra.py starts."""

    def register(self) -> None:
        """Makes the schemas and resolvers of hydra_conf/ known to Hydra."""
        register()
        register_resolvers()

    def checks(self, source: Source) -> Checks:
        """Returns the checks of its points."""
        return TrainingChecks(source)

    def normalized(self, config: dict[str, Any], memo: Remembered | None = None) -> dict[str, Any]:
        """Returns a resolved config with the real paths of the files that it names."""
        return with_real_paths(config, memo)

    def references(self, config: Config, memo: Remembered) -> Iterator[tuple[str, RunReference]]:
        """Yields the keys of a config that name a run to start from, with that run."""
        yield from references(config, memo)

    def not_in_sweeps(self, config: Config) -> Iterator[Problem]:
        """Yields what a config may say of a single run, but not of one of a sweep."""
        yield from sweep_device_problems(config)
        for key in ("dry_run", "rerun"):
            if config.get(key):
                problem = "must be false in a sweep, which starts every run that is not done, once"
                yield Problem(key, problem, f"leave it out; for a single run: python run_hydra.py ... {key}=true")

    def misfits(self, config: Config, resources: Resources) -> Iterator[Problem]:
        """Yields why a training cannot be split over the processes that its run will have."""
        gpus = resources.gpus_per_run
        count = max(1, gpus or 1) * (resources.nodes_per_run or 1)
        for backend in ("deepspeed", "fsdp"):
            if config.get(backend) and count < 2:
                shown = "not given" if gpus is None else repr(gpus)
                problem = f"shards a training over processes, so gpus_per_run must be at least 2, but is {shown}"
                yield Problem(backend, problem, f"set resources.gpus_per_run=2, or {backend}=none")
        if count > 1 and not list(batch_problems(config["training"]["training_params"])):
            yield from batch_problems(config["training"]["training_params"], count)

    def sweep_hint(self, overrides: str) -> str:
        """Returns the command that runs an experiment which is a sweep of its own."""
        return f"python run_hydra.py -m {overrides}"

    def file_hint(self, file: str) -> str:
        """Returns how a YAML file becomes an experiment."""
        name = Path(file).stem
        fix = f"`gptopt import-config {file} -o hydra_conf/exp/{name}.yaml` makes an experiment of one in TRL's "
        return fix + f"words; put one of ours into hydra_conf/exp/; then write +exp={name}"

    def inputs(self, config: Config, memo: Remembered) -> dict[str, dict[str, str]]:
        """Returns the files of data and weights that a run reads, and the user's own modules."""
        return inputs_of(config, memo)

    def metrics(self, config: Config) -> KnownMetrics:
        """Returns the metrics that the loss of a run gives; callbacks and a loss of the user's own may give more."""
        return metrics_of(config)

    def workload(self, config: Config) -> str:
        """Returns a hash of model, data, loss, optimizer, batches, adapters and own parts of a run.

        Seeds, strengths, rates, schedules and the number of steps are left out.
        """
        params = config["training"]["training_params"]
        parts = (
            config["model"],
            config["data"],
            config["loss"].get("name"),
            config["optimizer"]["optimizer_params"].get("name"),
            {key: value for key, value in params.items() if key not in NOT_WORKLOAD},
            config["lora"],
            [config.get(key) for key in ("collator", "aligner", "callbacks")],
        )
        return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:12]

    def steps(self, config: Config) -> tuple[int | None, int | None]:
        """Returns the optimizer steps of a run, None where epochs decide, and those between two of its checkpoints."""
        params = config["training"]["training_params"]
        return params["max_steps"], params["save_every"]

    def remaining(self, config: Config, step: int) -> int | None:
        """Returns the optimizer steps of a run that are still to do after `step`; None for a number of epochs."""
        steps = config["training"]["training_params"]["max_steps"]
        return None if steps is None else max(0, steps - step)

    def finder(self) -> Finder:
        """Returns what finds the directories of its runs."""
        return RunFinder()

    def outputs(self, config: Config) -> Path | None:
        """Returns the output folder of a config; None under paths=local_run_dir."""
        folder = config["paths"].get("output_dir")
        return None if folder is None else Path(folder)


_HUB_NAMES: Mapping[str, str] = {"model": "model=hf model.name_or_path=", "data": "data=hf data.dataset.path="}


def own_app(config_dir: Path = CONFIG_DIR, config_name: str = "config", further: Path | None = None) -> App:
    """Returns gpt-opt's own training.

    Args:
        config_dir: The folder hydra_conf.
        config_name: The primary config.
        further: Folder of more config groups, as `--config-dir` gives one.
    """
    return TrainingApp(
        name="gpt-opt",
        root=config_dir.resolve().parent,
        config_dir=config_dir,
        config_name=config_name,
        identity=TRAINING,
        program=Program(),
        job_name=JOB_NAME,
        version_base=VERSION_BASE,
        further=further,
        needed=frozenset(get_type_hints(Root)),
        experiments=("exp",),
        resources="resources",
        start=StartKeys("model.archive", "training.finetuning.resume_from_checkpoint", ("model", "seed")),
        workload_words="model, data, loss, batch",
        hub_names=_HUB_NAMES,
    )
