"""Training from Python: `run_training`, `run_sft` and `run_dpo`, the same runs that run_hydra.py makes.

Settings become Hydra overrides, so a call and a command line that say the same are one run: one id, one directory, one
result. A complete run is not trained again, an unfinished one resumes. The names are offered by `gpt_opt.training` too.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar, cast

from hydra.core.config_loader import ConfigLoader
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from gpt_opt.config.checks.data import data_option
from gpt_opt.config.checks.models import WEIGHT_SUFFIXES, is_on_disk
from gpt_opt.config.schema import Finetuning, Sampling
from gpt_opt.config.suggest import SYNONYMS, suggestion
from gpt_opt.errors import ConfigError, Problem, RunFailed
from gpt_opt.own_app.app import CONFIG_DIR, own_app
from gpt_opt.plan.compose.composer import Composed
from gpt_opt.plan.validate import PointChecker
from gpt_opt.records.io import read_json_object
from gpt_opt.records.run_dir import RunPaths, run_of
from gpt_opt.run.main import hydra_errors, require_weights, start, task
from gpt_opt.run.ranks import this_rank
from gpt_opt.sweep.overrides import to_override
from gpt_opt.training.checkpointing import final_checkpoint

_TRAINING = "training.training_params"

Kind = TypeVar("Kind")


def _accepting_synonyms(kind: type[Kind]) -> type[Kind]:
    """Makes a dataclass take other names of its fields too, and refuse an unknown one as the config does a key."""
    plain: Any = kind.__init__

    @wraps(plain)
    def init(self: Kind, *values: Any, **given: Any) -> None:
        plain(self, *values, **_own_names(kind, given))

    kind.__init__ = init  # type: ignore[assignment]
    return kind


def _own_names(kind: type[Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns values by the names of the fields that they are for.

    Raises:
        ConfigError: If a name is of no field, or two are of one.
    """
    valid = [field.name for field in fields(kind)]
    by_key = {_key(kind, name): name for name in valid}
    found: dict[str, str] = {}
    problems = []
    for name in settings:
        own = name if name in valid else by_key.get(_alias(kind, name))
        if own is None:
            fix = suggestion(name, valid, None if settings[name] is None else str(settings[name]))
            problems.append(Problem(f"{kind.__name__}.{name}", "is not a field of it", fix))
        elif own in found:
            problem = f"is given twice, as {found[own]} and as {name}"
            problems.append(Problem(f"{kind.__name__}.{own}", problem, f"give {own} alone"))
        else:
            found[own] = name
    if problems:
        raise ConfigError(problems)
    return {own: settings[name] for own, name in found.items()}


def _alias(kind: type[Any], name: str) -> str:
    """Returns the config key that another name of the field stands for, "" for none."""
    return _ALIASES.get((kind.__name__, name)) or SYNONYMS.get(name, "")


@_accepting_synonyms
@dataclass(frozen=True)
class TrainingConfig:
    """How to train; hydra_conf/training/default.yaml has the meaning, unit and default of every key.

    A field has the name of its config key where nothing else is said; None leaves the default of the YAML file. Names
    that other libraries have for a field are taken too, `lr` or `per_device_train_batch_size`. Anything else is an
    override: `run_sft(..., overrides=["lora=lora"])`.

    Attributes:
        run_name: Readable label of the run directory (`paths.run_name`).
        dataset_name: The data of a call that is given no `PreferenceDatasetConfig`, as there.
        tokenizer_name: Hub id or folder of the tokenizer, or "bytes" (`model.tokenizer_name_or_path`).
        output_dir: Root of all run directories (`paths.output_dir`).
        seed: Random seed (`seed`).
        learning_rate: Peak learning rate (`optimizer.optimizer_params.lr`).
        weight_decay: Decoupled decay, per unit of learning rate (`optimizer.optimizer_params.weight_decay`).
        batch_size: Sequences, or pairs, per optimizer step over all devices; this and all below are of
            `training.training_params`.
        micro_batch_size: Sequences, or pairs, per device per forward.
        eval_batch_size: Sequences, or pairs, per device per forward of an evaluation.
        gradient_accumulation_steps: Only to have it checked.
        max_length: Longest prompt + completion, tokens.
        max_prompt_length: What a prompt is truncated to when prompt + completion are too long, tokens.
        max_completion_length: What a completion is truncated to before that, tokens.
        truncation: Which end of a prompt that is too long to keep, "keep_start" or "keep_end"; "drop" leaves rows out
            that are too long.
        add_bos: Start a prompt with what the tokenizer puts before a text, if anything.
        max_steps: Optimizer steps.
        num_epochs: Passes over the data; replaces the default of max_steps.
        n_examples: Sequences, or pairs, to train on; likewise.
        warmup_steps: Optimizer steps in the first phase of the schedule.
        max_grad_norm: Clip the global gradient norm to this.
        ema_decay: Decay per optimizer step of an average of the weights, which is then evaluated and saved.
        mixed_precision: "no", "bf16" or "fp16".
        group_by_length: Batches of items of similar length, so less padding where batches are padded.
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
        temperature: 0 is greedy decoding, above 0 draws.
    """

    run_name: str | None = None
    dataset_name: str | Path | None = None
    tokenizer_name: str | Path | None = None
    output_dir: str | Path | None = None
    seed: int | None = None
    learning_rate: float | None = None
    weight_decay: float | None = None
    batch_size: int | None = None
    micro_batch_size: int | None = None
    eval_batch_size: int | None = None
    gradient_accumulation_steps: int | None = None
    max_length: int | None = None
    max_prompt_length: int | None = None
    max_completion_length: int | None = None
    truncation: str | None = None
    add_bos: bool | None = None
    max_steps: int | None = None
    num_epochs: float | None = None
    n_examples: int | None = None
    warmup_steps: int | None = None
    max_grad_norm: float | None = None
    ema_decay: float | None = None
    mixed_precision: str | None = None
    group_by_length: bool | None = None
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


@_accepting_synonyms
@dataclass(frozen=True)
class DPOConfig:
    """The loss of `run_dpo`; hydra_conf/loss/dpo.yaml says more of every key.

    A field has the name of its config key; None leaves the default of the YAML file. Other names are taken as in
    `TrainingConfig`.

    Attributes:
        beta: Strength of the pull towards the reference model, > 0. The YAML file has no default for it.
        loss_type: "sigmoid", "robust", "hinge", "ipo", "ipo_sum" or "kto_pair".
        label_smoothing: Assumed fraction of flipped preferences, 0 <= x < 0.5; sigmoid and robust only.
        reference_free: Leave the reference out of loss and rewards.
        use_ref_model: False: the initial policy is the reference; with reference_free there is none.
        ref_model_id: Another reference, hub id or folder.
        precompute_ref_log_probs: Compute the reference's log-probabilities once for all runs that need the same.
        max_length: Longest prompt + completion, tokens; as in `TrainingConfig`, give it in one of the two.
        max_prompt_length: What a prompt is truncated to when prompt + completion are too long, tokens; likewise.
        max_completion_length: What a completion is truncated to before that, tokens; likewise.
    """

    beta: float | None = 0.1
    loss_type: str | None = None
    label_smoothing: float | None = None
    reference_free: bool | None = None
    use_ref_model: bool | None = None
    ref_model_id: str | None = None
    precompute_ref_log_probs: bool | None = None
    max_length: int | None = None
    max_prompt_length: int | None = None
    max_completion_length: int | None = None


@_accepting_synonyms
@dataclass(frozen=True)
class PreferenceDatasetConfig:
    """The data; the file of its option in hydra_conf/data/ says which keys that option has.

    A field has the name of its config key where nothing else is said; None leaves the default of the YAML file. Other
    names are taken as in `TrainingConfig`.

    Attributes:
        dataset_name: Name on the hub, folder or file; or an option of the group data: "hf" reads any preference data,
            "jsonl" a file, "hh", "shp", "se" and "ultrafeedback" published data, "pydoc" the embedded pairs.
        path: Name on the hub, folder or file, where dataset_name is an option.
        subset: Configuration or folder of a data set on the hub.
        split: Split to train on.
        prompt_column: Column of the prompt.
        chosen_column: Column of the preferred completion.
        rejected_column: Column of the rejected completion.
        min_score_ratio: Least ratio of the two scores, shp only.
        max_samples: Keep only the first so many rows of a split.
        validation_split: Fraction of the prompts held out for evaluation, or the name of a split.
    """

    dataset_name: str | Path | None = None
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
    "run_name": "paths.run_name",
    "tokenizer_name": "model.tokenizer_name_or_path",
    "output_dir": "paths.output_dir",
    "seed": "seed",
    "learning_rate": "optimizer.optimizer_params.lr",
    "weight_decay": "optimizer.optimizer_params.weight_decay",
    **{field.name: f"training.finetuning.{field.name}" for field in fields(Finetuning)},
    **{field.name: f"training.sampling.{field.name}" for field in fields(Sampling)},
}
"""Config keys of the fields of TrainingConfig that are not of training.training_params."""

_LENGTHS = frozenset({"max_length", "max_prompt_length", "max_completion_length"})

_ALIASES = {
    ("TrainingConfig", "lr"): "optimizer.optimizer_params.lr",
    ("PreferenceDatasetConfig", "name"): "data",
}
"""Other names of fields that are none in `SYNONYMS`, by the config key of the field."""


def _key(kind: type[Any], name: str) -> str:
    """Returns the config key of a field; the group `data` of a data set's name."""
    if name == "dataset_name":
        return "data"
    if kind is TrainingConfig:
        return _ELSEWHERE.get(name, f"{_TRAINING}.{name}")
    group = "loss" if kind is DPOConfig else "data.dataset"
    return f"{_TRAINING if name in _LENGTHS else group}.{name}"


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
        RunFailed: If training raised, or the checkpoints of the complete run are removed.
        GptOptError: As `gpt_opt.run.execute.execute`.
    """
    loader = _check(overrides)
    with _root_logger_kept(), hydra_errors():
        job = start(loader, _run, overrides, multirun=False)
    paths = RunPaths(cast("Path", job.return_value))
    final = final_checkpoint(paths.checkpoints)
    if final is None:
        raise RunFailed(f"{paths.checkpoints} has no checkpoint any more; rerun=true trains the run again")
    return final


def run_sft(
    pretrain_checkpoint: str | Path | None = None,
    train_config: TrainingConfig | None = None,
    dataset_config: PreferenceDatasetConfig | None = None,
    tokenizer_name: str | Path | None = None,
    overrides: Sequence[str] = (),
    *,
    model_name_or_path: str | Path | None = None,
    preference_config: PreferenceDatasetConfig | None = None,
) -> Path:
    """Fine-tunes a model on the chosen completions of preference data.

    Args:
        pretrain_checkpoint: Hub id or folder, or a file of weights (`model.archive`) of the default model, or of the
            one that the overrides choose; None trains the default model.
        train_config: How to train.
        dataset_config: The data; None takes `train_config.dataset_name`, or else the embedded pairs.
        tokenizer_name: Hub id or folder, or "bytes"; None takes the model's own.
        overrides: Further Hydra overrides, which win.
        model_name_or_path: Another name of pretrain_checkpoint.
        preference_config: Another name of dataset_config.

    Returns:
        The folder of the final checkpoint.

    Raises:
        GptOptError: As `run_training`.
    """
    start = _one(pretrain_checkpoint=pretrain_checkpoint, model_name_or_path=model_name_or_path)
    data = _one(dataset_config=dataset_config, preference_config=preference_config)
    settings = {"loss": "sft", **_model("pretrain_checkpoint", start, tokenizer_name)}
    return run_training(_overrides(settings, _training(train_config), _data(data, train_config), more=overrides))


def run_dpo(
    sft_checkpoint: str | Path | None,
    train_config: TrainingConfig | None = None,
    dpo_config: DPOConfig | None = None,
    preference_config: PreferenceDatasetConfig | None = None,
    tokenizer_name: str | Path | None = None,
    overrides: Sequence[str] = (),
    *,
    dataset_config: PreferenceDatasetConfig | None = None,
) -> Path:
    """Trains a model on preferences, with its start weights as the reference.

    Args:
        sft_checkpoint: What `run_sft` returned, a run directory, any hub id or folder of a causal language model, or a
            file of weights as in `run_sft`; None is refused.
        train_config: How to train.
        dpo_config: The loss; without it beta is mandatory, as an override.
        preference_config: The data; None takes `train_config.dataset_name`, or else the embedded pairs.
        tokenizer_name: Hub id or folder, or "bytes"; None takes that of the run that made the checkpoint, or the
            model's own.
        overrides: Further Hydra overrides, which win.
        dataset_config: Another name of preference_config.

    Returns:
        The folder of the final checkpoint.

    Raises:
        GptOptError: As `run_training`.
    """
    if sft_checkpoint is None:
        problem = "must be what run_sft returned, a hub id, a folder or a file of weights, but is None"
        raise ConfigError(
            [Problem("sft_checkpoint", problem, "for the default model: run_training(['loss.beta=0.1'])")]
        )
    data = _one(preference_config=preference_config, dataset_config=dataset_config)
    settings = {"loss": "dpo", **_model("sft_checkpoint", sft_checkpoint, tokenizer_name)}
    parts = _training(train_config), _loss(dpo_config), _data(data, train_config)
    return run_training(_overrides(settings, *parts, more=overrides))


def _one(**names: Any) -> Any:
    """Returns the value of an argument that has two names.

    Raises:
        ConfigError: If both are given.
    """
    given = {name: value for name, value in names.items() if value is not None}
    if len(given) > 1:
        own = next(iter(names))
        raise ConfigError([Problem(own, f"is given twice, as {' and as '.join(given)}", f"give {own} alone")])
    return next(iter(given.values()), None)


def _check(overrides: Sequence[str]) -> ConfigLoader:
    """Refuses what run_hydra.py would refuse, and what has no final checkpoint; returns what the config is made with.

    Raises:
        ConfigError: With all problems.
    """
    app = own_app(CONFIG_DIR)
    app.register()
    checker = PointChecker(app)
    line = checker.command_line(overrides)
    result = checker.compose_one(line)
    problems = [*checker.problems(result), *checker.elsewhere.values()]
    if isinstance(result, Composed) and not problems:
        require_weights([(result.config, result.overrides)])
    if isinstance(result, Composed) and result.config["dry_run"] is True:
        problems.append(Problem("dry_run", "must be false here: a dry run has no checkpoint", "use run_hydra.py"))
    if this_rank().count > 1:
        problem = f"is called in {this_rank().count} processes of torchrun, but must be in one"
        problems.append(Problem("run_training", problem, "start run_hydra.py under torchrun instead"))
    if problems:
        raise ConfigError(problems, ", nothing was started")
    return checker.loader(line.config)


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


def _model(argument: str, start: str | Path | None, tokenizer: str | Path | None) -> Settings:
    """Returns the settings of a model that starts from a hub id, a folder, a run directory or a file of weights.

    Raises:
        ConfigError: If it can only be a file or folder, but is not there.
    """
    settings: Settings = {}
    if start is not None:
        path = Path(start)
        if (isinstance(start, Path) or is_on_disk(start)) and not path.exists():
            problem = f"must be a hub id, a folder or a file of weights, but {str(start)!r} does not exist"
            raise ConfigError([Problem(argument, problem)])
        run = RunPaths(path)
        if run.checkpoints.is_dir() and (final := final_checkpoint(run.checkpoints)) is not None:
            path = final
        settings = _start(path if path.exists() else start)
    if tokenizer is not None:
        settings["model.tokenizer_name_or_path"] = tokenizer
    return settings


def _start(start: str | Path) -> Settings:
    if Path(start).is_file() or Path(start).suffix in WEIGHT_SUFFIXES:
        return {"model.archive": start}
    settings: Settings = {"model": "hf", "model.name_or_path": start}
    if (maker := run_of(Path(start))) is not None and maker.root != Path(start):
        model = read_json_object(maker.config)["model"]
        settings |= {"model.name": model["name"], "model.tokenizer_name_or_path": model["tokenizer_name_or_path"]}
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
    given.pop("dataset_name", None)  # see _data
    settings = {_key(TrainingConfig, name): value for name, value in given.items()}
    if given.keys() & {"num_epochs", "n_examples"} and "max_steps" not in given:
        settings[f"{_TRAINING}.max_steps"] = None
    return settings


def _loss(config: DPOConfig | None) -> Settings:
    return {_key(DPOConfig, name): value for name, value in _given(config, DPOConfig).items()}


def _data(config: PreferenceDatasetConfig | None, train_config: TrainingConfig | None) -> Settings:
    if config is None:
        name = _given(train_config, TrainingConfig).get("dataset_name")
        return {} if name is None else data_option(os.fspath(name), CONFIG_DIR)
    given = _given(config, PreferenceDatasetConfig)
    option = data_option(os.fspath(given.pop("dataset_name", "hf")), CONFIG_DIR)
    settings = {_key(PreferenceDatasetConfig, name): value for name, value in given.items()}
    if both := option.keys() & settings.keys():
        problem = f"is {option[next(iter(both))]!r}, no option of the group data, beside path={given['path']}"
        raise ConfigError([Problem("PreferenceDatasetConfig.dataset_name", problem, "give one of the two")])
    return option | settings


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
