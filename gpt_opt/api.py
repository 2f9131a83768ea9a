"""Training from Python: `run_training`, `run_sft` and `run_dpo`, the same runs that run_hydra.py makes.

Settings become Hydra overrides, so a call and a command line that say the same are one run: one id, one directory, one
result. A complete run is not trained again, an unfinished one resumes. The names are offered by `gpt_opt.training` too.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, cast

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.hydra_config import HydraConfig
from hydra.version import setbase
from omegaconf import DictConfig

from gpt_opt.config.schema import Finetuning, Sampling, register
from gpt_opt.errors import ConfigError, Problem, RunFailed
from gpt_opt.plan.check import PointChecker
from gpt_opt.plan.compose import Composed
from gpt_opt.plan.compose_hydra import VERSION_BASE
from gpt_opt.run.app import hydra_errors, task
from gpt_opt.run.directory import register_resolvers
from gpt_opt.run.files import read_json_object
from gpt_opt.run.paths import RunPaths
from gpt_opt.run.ranks import this_rank
from gpt_opt.sweep.overrides import to_override
from gpt_opt.training.checkpoints import final_checkpoint

CONFIG_DIR = Path(__file__).resolve().parent.parent / "hydra_conf"

_TRAINING = "training.training_params"


@dataclass(frozen=True)
class TrainingConfig:
    """How to train; hydra_conf/training/default.yaml has the meaning, unit and default of every key.

    A field has the name of its config key; None leaves the default of the YAML file. Anything else is an override:
    `run_sft(..., overrides=["lora=lora"])`.

    Attributes:
        output_dir: Root of all run directories (`paths.output_dir`).
        seed: Random seed (`seed`).
        lr: Peak learning rate (`optimizer.optimizer_params.lr`).
        batch_size: Sequences, or pairs, per optimizer step over all devices; this and all below are of
            `training.training_params`.
        micro_batch_size: Sequences, or pairs, per device per forward.
        gradient_accumulation_steps: Only to have it checked.
        max_length: Longest prompt + answer, tokens.
        max_prompt_length: What a prompt is cut to when prompt + answer are too long, tokens.
        truncation: Which end of a prompt that is too long to keep, "keep_start" or "keep_end".
        add_bos: Start a prompt with what the tokenizer puts before a text, if anything.
        max_steps: Optimizer steps.
        num_epochs: Passes over the data; takes the place of the default of max_steps.
        n_examples: Sequences, or pairs, to train on; likewise.
        warmup_steps: Optimizer steps in the first phase of the schedule.
        max_grad_norm: Clip the global gradient norm to this.
        mixed_precision: "no", "bf16" or "fp16".
        gradient_checkpointing: Recompute activations in the backward pass.
        compile: Compile the model with torch.compile.
        log_every: Optimizer steps between two lines of training metrics.
        eval_every: Optimizer steps between two evaluations.
        save_every: Optimizer steps between two checkpoints.
        save_total_limit: Newest checkpoints to keep.
        resume_from_checkpoint: Checkpoint of another run to go on from; this and all below are of
            `training.finetuning`.
        load_best_model_at_end: Keep the checkpoint of the best evaluation as the final one.
        metric_for_best_model: Metric that says which evaluation is best.
        greater_is_better: Direction of that metric.
        early_stopping_patience: Evaluations in a row without a better one after which training ends.
        sample_during_eval: Let the models continue validation prompts at every evaluation; this and all below are of
            `training.sampling`.
        n_samples: How many prompts.
        max_new_tokens: Longest continuation, tokens.
        temperature: 0 takes the likeliest token, more draws.
    """

    output_dir: str | Path | None = None
    seed: int | None = None
    lr: float | None = None
    batch_size: int | None = None
    micro_batch_size: int | None = None
    gradient_accumulation_steps: int | None = None
    max_length: int | None = None
    max_prompt_length: int | None = None
    truncation: str | None = None
    add_bos: bool | None = None
    max_steps: int | None = None
    num_epochs: float | None = None
    n_examples: int | None = None
    warmup_steps: int | None = None
    max_grad_norm: float | None = None
    mixed_precision: str | None = None
    gradient_checkpointing: bool | None = None
    compile: bool | None = None
    log_every: int | None = None
    eval_every: int | None = None
    save_every: int | None = None
    save_total_limit: int | None = None
    resume_from_checkpoint: str | Path | None = None
    load_best_model_at_end: bool | None = None
    metric_for_best_model: str | None = None
    greater_is_better: bool | None = None
    early_stopping_patience: int | None = None
    sample_during_eval: bool | None = None
    n_samples: int | None = None
    max_new_tokens: int | None = None
    temperature: float | None = None


@dataclass(frozen=True)
class DPOConfig:
    """The loss of `run_dpo`; hydra_conf/loss/dpo.yaml says more of every key.

    A field has the name of its config key; None leaves the default of the YAML file.

    Attributes:
        beta: Strength of the pull towards the reference model, > 0. It has no default.
        loss_type: "sigmoid", "robust", "hinge", "ipo", "ipo_sum" or "kto_pair".
        label_smoothing: Assumed share of flipped preferences, 0 <= x < 0.5; sigmoid and robust only.
        reference_free: Leave the reference out of loss and rewards.
        use_ref_model: False: the policy's start is the reference; with reference_free there is none.
        ref_model_id: Another reference, hub id or folder.
        max_length: Longest prompt + answer, tokens; as in `TrainingConfig`, give it in one of the two.
        max_prompt_length: What a prompt is cut to when prompt + answer are too long, tokens; likewise.
    """

    beta: float | None = None
    loss_type: str | None = None
    label_smoothing: float | None = None
    reference_free: bool | None = None
    use_ref_model: bool | None = None
    ref_model_id: str | None = None
    max_length: int | None = None
    max_prompt_length: int | None = None


@dataclass(frozen=True)
class PreferenceDatasetConfig:
    """The data; the file of `name` in hydra_conf/data/ says which keys that option has.

    A field has the name of its config key; None leaves the default of the YAML file.

    Attributes:
        name: The option of the group data: "hf" reads any preference data, "jsonl" a file, "hh", "shp", "se" and
            "ultrafeedback" published data, "pydoc" the embedded pairs.
        path: Name on the hub, folder or file.
        subset: Configuration or folder of a data set on the hub.
        split: Split to train on.
        prompt_column: Column of the prompt.
        chosen_column: Column of the preferred answer.
        rejected_column: Column of the other answer.
        min_score_ratio: Least ratio of the two scores, shp only.
        max_samples: Keep only the first so many rows of a split.
        validation_split: Share of the prompts held out for evaluation, or the name of a split.
    """

    name: str = "hf"
    path: str | Path | None = None
    subset: str | None = None
    split: str | None = None
    prompt_column: str | None = None
    chosen_column: str | None = None
    rejected_column: str | None = None
    min_score_ratio: float | None = None
    max_samples: int | None = None
    validation_split: float | str | None = None


_ELSEWHERE = {
    "output_dir": "paths.output_dir",
    "seed": "seed",
    "lr": "optimizer.optimizer_params.lr",
    **{field.name: f"training.finetuning.{field.name}" for field in fields(Finetuning)},
    **{field.name: f"training.sampling.{field.name}" for field in fields(Sampling)},
}
"""Config keys of the fields of TrainingConfig that are not of training.training_params."""

_LENGTHS = frozenset({"max_length", "max_prompt_length"})

Settings = dict[str, Any]
"""Config key, or group, to value."""


def run_training(overrides: Sequence[str] = ()) -> Path:
    """Trains one run, as `python run_hydra.py OVERRIDES` does, unless it is complete already.

    The current directory, the environment and the handlers of the root logger are as before when it returns.

    Args:
        overrides: Hydra override strings: `["loss.beta=0.1", "seed=1"]`.

    Returns:
        The folder of the final checkpoint, in Hugging Face format.

    Raises:
        ConfigError: If anything is wrong with the overrides; nothing was started.
        RunFailed: If training raised, or the checkpoints of the complete run are gone.
        GptOptError: As `gpt_opt.run.execute.execute`.
    """
    register()
    register_resolvers()
    _check(overrides)
    with _root_logger_kept(), hydra_errors():
        setbase(VERSION_BASE)
        loader = ConfigLoaderImpl(create_config_search_path(str(CONFIG_DIR)))
        job = Hydra("run_hydra", loader).run("config", _run, list(overrides))
    paths = RunPaths(cast("Path", job.return_value))
    final = final_checkpoint(paths.checkpoints)
    if final is None:
        raise RunFailed(f"{paths.checkpoints} has no checkpoint any more; rerun=true trains the run again")
    return final


def run_sft(
    model_name_or_path: str | Path | None = None,
    train_config: TrainingConfig | None = None,
    preference_config: PreferenceDatasetConfig | None = None,
    tokenizer_name: str | None = None,
    overrides: Sequence[str] = (),
) -> Path:
    """Fine-tunes a model on the chosen answers of preference data.

    Args:
        model_name_or_path: Hub id or folder; None trains the default model.
        train_config: How to train.
        preference_config: The data; None takes the embedded pairs.
        tokenizer_name: Hub id or folder, or "bytes"; None takes the model's own.
        overrides: Further Hydra overrides, which win.

    Returns:
        The folder of the final checkpoint.

    Raises:
        GptOptError: As `run_training`.
    """
    settings = {"loss": "sft", **_model(model_name_or_path, tokenizer_name)}
    return run_training(_overrides(settings, _training(train_config), _data(preference_config), more=overrides))


def run_dpo(
    sft_checkpoint: str | Path | None,
    train_config: TrainingConfig | None = None,
    dpo_config: DPOConfig | None = None,
    preference_config: PreferenceDatasetConfig | None = None,
    tokenizer_name: str | None = None,
    overrides: Sequence[str] = (),
) -> Path:
    """Trains a model on preferences, with its start weights as the reference.

    Args:
        sft_checkpoint: What `run_sft` returned, or any hub id or folder of a causal language model; None is refused.
        train_config: How to train.
        dpo_config: The loss, whose beta is mandatory.
        preference_config: The data; None takes the embedded pairs.
        tokenizer_name: Hub id or folder, or "bytes"; None takes that of the run that made the checkpoint, or the
            model's own.
        overrides: Further Hydra overrides, which win.

    Returns:
        The folder of the final checkpoint.

    Raises:
        GptOptError: As `run_training`.
    """
    if sft_checkpoint is None:
        problem = "must be what run_sft returned, a hub id or a folder, but is None"
        raise ConfigError(
            [Problem("sft_checkpoint", problem, "for the default model: run_training(['loss.beta=0.1'])")]
        )
    settings = {"loss": "dpo", **_model(sft_checkpoint, tokenizer_name)}
    parts = _training(train_config), _loss(dpo_config), _data(preference_config)
    return run_training(_overrides(settings, *parts, more=overrides))


def _check(overrides: Sequence[str]) -> None:
    """Refuses what run_hydra.py would refuse, and what has no final checkpoint.

    Raises:
        ConfigError: With all problems.
    """
    checker = PointChecker(CONFIG_DIR)
    result = next(checker.compose_many([overrides]))
    problems = checker.problems(result)
    if isinstance(result, Composed) and result.config["dry_run"] is True:
        problems.append(Problem("dry_run", "must be false here: a dry run has no checkpoint", "use run_hydra.py"))
    if this_rank().count > 1:
        problem = f"is called in {this_rank().count} processes of torchrun, but must be in one"
        problems.append(Problem("run_training", problem, "start run_hydra.py under torchrun instead"))
    if problems:
        raise ConfigError(problems, ", nothing was started")


def _run(config: DictConfig) -> Path:
    task(config)
    return Path(HydraConfig.get().runtime.output_dir)


@contextmanager
def _root_logger_kept() -> Iterator[None]:
    """Puts the caller's handlers back after a run, whose own write to task.log and to the terminal."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        yield
    finally:
        for handler in root.handlers:
            if handler not in handlers:
                handler.close()
        root.handlers[:] = handlers
        root.setLevel(level)


def _model(name_or_path: str | Path | None, tokenizer: str | None) -> Settings:
    settings: Settings = {}
    if name_or_path is not None:
        settings = {"model": "hf", "model.name_or_path": name_or_path}
        maker = RunPaths(Path(name_or_path).parent.parent)
        if maker.config.is_file() and maker.checkpoints == Path(name_or_path).parent:
            model = read_json_object(maker.config)["model"]
            settings |= {"model.name": model["name"], "model.tokenizer_name_or_path": model["tokenizer_name_or_path"]}
    if tokenizer is not None:
        settings["model.tokenizer_name_or_path"] = tokenizer
    return settings


def _given(config: Any, kind: type[Any]) -> Settings:
    """Returns the fields that are given.

    Raises:
        ConfigError: If `config` is of another type.
    """
    if config is not None and not isinstance(config, kind):
        problem = f"must be a {kind.__name__} or None, but is a {type(config).__name__}"
        raise ConfigError([Problem(kind.__name__, problem, f"write {kind.__name__}(KEY=VALUE, ...)")])
    found = {field.name: getattr(config, field.name) for field in fields(kind)} if config is not None else {}
    return {name: value for name, value in found.items() if value is not None}


def _training(config: TrainingConfig | None) -> Settings:
    given = _given(config, TrainingConfig)
    settings = {_ELSEWHERE.get(name, f"{_TRAINING}.{name}"): value for name, value in given.items()}
    if given.keys() & {"num_epochs", "n_examples"} and "max_steps" not in given:
        settings[f"{_TRAINING}.max_steps"] = None
    return settings


def _loss(config: DPOConfig | None) -> Settings:
    given = _given(config, DPOConfig)
    return {f"{_TRAINING if name in _LENGTHS else 'loss'}.{name}": value for name, value in given.items()}


def _data(config: PreferenceDatasetConfig | None) -> Settings:
    given = _given(config, PreferenceDatasetConfig)
    if config is not None and "name" not in given:
        problem = "must be an option of the group data, but is None"
        raise ConfigError([Problem("PreferenceDatasetConfig.name", problem, "the embedded pairs are name='pydoc'")])
    option = {"data": given.pop("name")} if given else {}
    return {**option, **{f"data.dataset.{name}": value for name, value in given.items()}}


def _overrides(*parts: Settings, more: Sequence[str]) -> list[str]:
    """Writes settings as override strings.

    Raises:
        ConfigError: If two parts say different things of one key.
    """
    settings: Settings = {}
    for part in parts:
        for key, value in part.items():
            if key in settings and settings[key] != value:
                raise ConfigError([Problem(key, f"is given twice, as {settings[key]} and as {value}")])
            settings[key] = value
    return [*(to_override(key, _plain(value)) for key, value in settings.items()), *more]


def _plain(value: Any) -> Any:
    """Returns a path as text, and a number of numpy or torch as one of Python."""
    if isinstance(value, Path):
        return os.fspath(value)
    return value.item() if hasattr(value, "item") else value
