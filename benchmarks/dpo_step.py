"""Optimizer steps per second of our DPO training against TRL's DPOTrainer: same model, pairs, batches, precision.

    python benchmarks/dpo_step.py --steps 60 --rounds 5
    python benchmarks/dpo_step.py model.archive=null model.config.n_embd=1024 model.config.n_layer=24 \
        model.config.n_head=16 training.training_params.mixed_precision=bf16

Further arguments are Hydra overrides of the project's config; both sides follow them. Both start every round from the
same weights and see the same batches in the same order, so their last losses must agree. TRL runs with its own defaults
but for gradient checkpointing (off, as ours) and precision (ours); both log every `log_every` steps, neither evaluates
nor saves within the time that counts. Nothing here needs the network.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, cast

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the product sets it, here before torch is loaded
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import datasets
import torch
import transformers
from hydra import compose, initialize_config_dir
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import PrinterCallback
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer

from gpt_opt.config.checks.batches import accumulation_steps, micro_batch_size
from gpt_opt.config.schema import register
from gpt_opt.run.resolvers import plain_config, register_resolvers
from gpt_opt.training.build import build, build_trainer
from gpt_opt.training.data.mixture import build_dataset
from gpt_opt.training.data.order import TrainingOrder
from gpt_opt.training.distributed import fresh_accelerate
from gpt_opt.training.interface import Folder, Hooks
from gpt_opt.training.models.build import Reference
from gpt_opt.training.optimizers import phases_of

ROOT = Path(__file__).resolve().parent.parent
SKIPPED_STEPS = 5
"""First steps of each round that are not timed: allocators and caches fill."""

Config = Mapping[str, Any]
Side = Callable[[Config, Path], Trainer]


def synchronize() -> None:
    """Waits for the device, so that the clock tells what was done and not what was queued."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


class Stopwatch:
    """Seconds by part of a step; parts may lie in each other."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._started: dict[str, float] = {}

    def start(self, part: str) -> None:
        """Starts a part."""
        synchronize()
        self._started[part] = time.perf_counter()

    def stop(self, part: str) -> None:
        """Adds the time since the part's start."""
        synchronize()
        self.seconds[part] += time.perf_counter() - self._started[part]

    def wrap(self, owner: Any, name: str, part: str) -> None:
        """Times every call of a method of one object."""
        original = getattr(owner, name)

        @wraps(original)
        def timed(*args: Any, **kwargs: Any) -> Any:
            self.start(part)
            try:
                return original(*args, **kwargs)
            finally:
                self.stop(part)

        setattr(owner, name, timed)

    def watch_module(self, module: torch.nn.Module, part: str) -> None:
        """Times every forward of a module."""
        module.register_forward_pre_hook(lambda *_: self.start(part))
        module.register_forward_hook(lambda *_: self.stop(part))

    @contextmanager
    def watch_optimizers(self) -> Iterator[None]:
        """Times every optimizer step of the process."""
        handles = [
            register_optimizer_step_pre_hook(lambda *_: self.start("optimizer")),
            register_optimizer_step_post_hook(lambda *_: self.stop("optimizer")),
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


class Clock(TrainerCallback):
    """Times the steps after the first `SKIPPED_STEPS` and collects the logged losses."""

    def __init__(self, watch: Stopwatch | None) -> None:
        self.seconds, self.cpu_seconds = 0.0, 0.0
        self.losses: list[float] = []
        self._watch, self._started, self._cpu_started = watch, 0.0, 0.0

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Starts or stops the clock."""
        if state.global_step == SKIPPED_STEPS:
            synchronize()
            self._started, self._cpu_started = time.perf_counter(), time.process_time()
            if self._watch is not None:
                self._watch.seconds.clear()
        elif state.global_step == state.max_steps:
            synchronize()
            self.seconds = time.perf_counter() - self._started
            self.cpu_seconds = time.process_time() - self._cpu_started

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Keeps the loss."""
        if "loss" in kwargs["logs"]:
            self.losses.append(float(kwargs["logs"]["loss"]))


@dataclass(frozen=True)
class Round:
    """What one training of one side gave.

    Attributes:
        steps_per_second: Optimizer steps.
        cpu_ms: Milliseconds of processor time of a step, summed over threads: what a busy machine disturbs less.
        losses: Training loss at every log line.
        parts: Milliseconds of a step by part, where parts were timed.
    """

    steps_per_second: float
    cpu_ms: float
    losses: list[float]
    parts: dict[str, float]


def ours(config: Config, folder: Path) -> Trainer:
    """Builds this project's trainer, as a run builds it."""
    hooks = Hooks(progress=lambda step, total: None, stop_requested=lambda: False, fence=lambda: None)
    (folder / "checkpoints").mkdir()
    # The assembly of the product itself, not a copy: what it sets is what is measured.
    place = Folder(folder / "checkpoints", folder / "metrics.jsonl", folder / "samples.jsonl")
    return build_trainer(config, build(config), place, hooks)


def trl(config: Config, folder: Path) -> Trainer:
    """Builds TRL's trainer for the same config.

    Raises:
        RuntimeError: If it would train on other tokens than ours.
    """
    parts = build(config)
    batch_size = config["training"]["training_params"]["batch_size"]
    pairs = build_dataset(config["data"]["dataset"]).train
    texts = TrainingOrder(pairs, batch_size, parts.steps, config["seed"], "pairs")
    tokens = parts.order(config)
    rows = [
        {name: getattr(text, name) for name in ("prompt", "chosen", "rejected")}
        for text in map(texts.__getitem__, range(len(texts)))
    ]
    trainer = DPOTrainer(
        model=parts.policy,
        ref_model=cast("Reference", parts.reference).model,
        args=_trl_arguments(config, parts.steps, folder),
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=parts.tokenizer,
    )
    for row, pair in zip(cast("Any", trainer.train_dataset), map(tokens.__getitem__, range(len(tokens))), strict=True):
        if (row["prompt_ids"], row["chosen_ids"], row["rejected_ids"]) != (pair.prompt, pair.chosen, pair.rejected):
            raise RuntimeError(f"both sides must train on the same tokens, but TRL made {row} of {pair}")
    return cast("Trainer", trainer)


def _trl_arguments(config: Config, steps: int, folder: Path) -> DPOConfig:
    params, optimizer = config["training"]["training_params"], config["optimizer"]["optimizer_params"]
    return DPOConfig(
        output_dir=str(folder),
        beta=config["loss"]["beta"],
        max_length=params["max_length"],
        per_device_train_batch_size=micro_batch_size(params),
        gradient_accumulation_steps=accumulation_steps(params),
        max_steps=steps,
        max_grad_norm=params["max_grad_norm"],
        learning_rate=optimizer["lr"],
        adam_beta1=optimizer["betas"][0],
        adam_beta2=optimizer["betas"][1],
        adam_epsilon=optimizer["eps"],
        weight_decay=optimizer["weight_decay"],
        lr_scheduler_type="cosine",
        warmup_steps=phases_of(optimizer, params["warmup_steps"], steps).first,
        bf16=params["mixed_precision"] == "bf16",
        fp16=params["mixed_precision"] == "fp16",
        gradient_checkpointing=params["gradient_checkpointing"],
        train_sampling_strategy="sequential",
        logging_steps=params["log_every"],
        save_strategy="no",
        seed=config["seed"],
        use_cpu=not torch.accelerator.is_available(),
        dataloader_pin_memory=torch.cuda.is_available(),
        report_to=[],
        disable_tqdm=True,
    )


def _reference(trainer: Any) -> torch.nn.Module:
    return cast("torch.nn.Module", trainer.ref_model if isinstance(trainer, DPOTrainer) else trainer.reference.model)


def train_once(side: Side, config: Config, timed_parts: bool = False) -> Round:
    """Trains one side once, from the start weights."""
    watch = Stopwatch() if timed_parts else None
    with ExitStack() as stack:
        stack.enter_context(fresh_accelerate())
        trainer = side(config, Path(stack.enter_context(tempfile.TemporaryDirectory())))
        clock = Clock(watch)
        trainer.add_callback(clock)
        trainer.remove_callback(PrinterCallback)
        if watch is not None:
            stack.enter_context(watch.watch_optimizers())
            watch.watch_module(cast("torch.nn.Module", trainer.model), "policy forward")
            watch.watch_module(_reference(trainer), "reference forward")
            watch.wrap(trainer, "compute_loss", "compute_loss")
            watch.wrap(trainer, "get_batch_samples", "batch")
            watch.wrap(trainer.accelerator, "backward", "backward")
            watch.wrap(trainer.accelerator, "clip_grad_norm_", "clipping")
        trainer.train()
        steps = trainer.state.max_steps - SKIPPED_STEPS
    parts = _parts(watch.seconds, clock.seconds, steps) if watch is not None else {}
    return Round(steps / clock.seconds, clock.cpu_seconds / steps * 1e3, clock.losses, parts)


def _parts(seconds: Mapping[str, float], total: float, steps: int) -> dict[str, float]:
    forwards = seconds["policy forward"] + seconds["reference forward"]
    names = ("batch", "policy forward", "reference forward", "backward", "clipping", "optimizer")
    parts = {name: seconds[name] for name in names}
    parts["loss and metrics"] = seconds["compute_loss"] - forwards
    parts["the rest"] = total - sum(parts.values())
    return {**{name: value / steps * 1e3 for name, value in parts.items()}, "step": total / steps * 1e3}


def compare(config: Config, rounds: int) -> None:
    """Trains both sides alternately and prints what came out."""
    sides: dict[str, Side] = {"ours": ours, "TRL": trl}
    found: dict[str, list[Round]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name in sides if number % 2 else reversed(sides):
            result = train_once(sides[name], config)
            note = "" if number else " (discarded)"
            print(f"round {number} {name:<4} {result.steps_per_second:8.3f} steps/s{note}", flush=True)
            if number:
                found[name].append(result)
    print()
    speeds = {name: [result.steps_per_second for result in results] for name, results in found.items()}
    cpu = {name: [result.cpu_ms for result in results] for name, results in found.items()}
    for name, results in found.items():
        print(f"{name:<4} {_spread(speeds[name])} steps/s, {_spread(cpu[name])} ms of CPU time a step")
        print(f"{'':<4} loss at the log lines: {' '.join(f'{loss:.4f}' for loss in results[-1].losses)}")
    print(f"ours / TRL in steps/s:  {_spread(_ratios(speeds['ours'], speeds['TRL']))}")
    print(f"TRL / ours in CPU time: {_spread(_ratios(cpu['TRL'], cpu['ours']))}")
    _print_parts({name: train_once(side, config, timed_parts=True).parts for name, side in sides.items()})


def _ratios(upper: Sequence[float], lower: Sequence[float]) -> list[float]:
    return [over / under for over, under in zip(upper, lower, strict=True)]


def _spread(values: Sequence[float]) -> str:
    return f"median {statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def _print_parts(parts: Mapping[str, Mapping[str, float]]) -> None:
    print(f"\n{'ms a step':<20}" + "".join(f"{name:>10}" for name in parts))
    for part in next(iter(parts.values())):
        print(f"{part:<20}" + "".join(f"{values[part]:10.2f}" for values in parts.values()))
    print(
        "(TRL takes log-probabilities inside the policy's and the reference's forward; ours are in 'loss and metrics')"
    )


def load_config(steps: int, overrides: Sequence[str]) -> Config:
    """Composes the project's config for this benchmark."""
    register()
    register_resolvers()
    fixed = [
        "loss.beta=0.1",
        f"training.training_params.max_steps={steps}",
        "training.training_params.save_every=1000000",
        "optimizer.optimizer_params.lr_schedule=warm-up-cosine",
    ]
    with initialize_config_dir(str(ROOT / "hydra_conf"), version_base="1.3"):
        return plain_config(compose("config", overrides=[*fixed, *overrides]))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--steps", type=int, default=60, help=f"optimizer steps of a round, {SKIPPED_STEPS} of them untimed"
    )
    parser.add_argument("--rounds", type=int, default=5, help="rounds that count; one more is run first and discarded")
    parser.add_argument(
        "--threads", type=int, default=None, help="CPU threads of both sides; default: what torch takes"
    )
    parser.add_argument("overrides", nargs="*", help="Hydra overrides of the project's config")
    arguments = parser.parse_args()
    if arguments.steps < 10 or arguments.rounds < 1:
        parser.error("--steps must be at least 10, where the first loss is logged, and --rounds at least 1")
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    warnings.simplefilter("ignore", FutureWarning)  # of TRL's own use of transformers
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    print(f"{device}; load average {os.getloadavg()[0]:.2f}; torch {torch.__version__}")
    compare(load_config(arguments.steps, arguments.overrides), arguments.rounds)


if __name__ == "__main__":
    main()
