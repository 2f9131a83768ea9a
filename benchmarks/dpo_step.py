r"""Pairs per second and memory of our DPO training against TRL's DPOTrainer, live and with its precomputed reference.

    python benchmarks/dpo_step.py --steps 60 --rounds 5
    python benchmarks/dpo_step.py --steps 15 --rounds 3 model.archive=null model.config.n_embd=2048 \
        model.config.n_layer=20 model.config.n_head=16 model.config.n_positions=1024 model.config.vocab_size=32000 \
        training.training_params.mixed_precision=bf16  # a GPU with 1.1 billion parameters

Further arguments are Hydra overrides of the project's config; all sides follow them. All start every round from the
same weights and see the same batches in the same order, so their last losses must agree. TRL runs with its own defaults
but for gradient checkpointing (off, as ours) and precision (ours); all log every `log_every` steps, none evaluates or
saves within the time that counts. What comes before the first step, the reference's log-probabilities among it, is no
part of a step: its seconds are reported beside. Nothing here needs the network.

Memory is measured in a process for each side: the most that is resident (on a GPU: allocated) during training, above
what is when all weights are loaded and nothing is computed; gradients and the optimizer's state are part of it.
"""

from __future__ import annotations

import argparse
import atexit
import copy
import json
import os
import shutil
import statistics
import subprocess
import sys
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
os.environ["GPTOPT_CACHE"] = tempfile.mkdtemp()  # nothing that an earlier run of this computed
os.environ["HF_DATASETS_CACHE"] = tempfile.mkdtemp()

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
from gpt_opt.config.schedules import phases_of
from gpt_opt.config.schema import register
from gpt_opt.run.resolvers import plain_config, register_resolvers
from gpt_opt.training.build import build, build_trainer
from gpt_opt.training.data.mixture import build_dataset
from gpt_opt.training.data.order import TrainingOrder
from gpt_opt.training.distributed import fresh_accelerate
from gpt_opt.training.interface import Folder, Hooks

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
        self.seconds, self.cpu_seconds, self.begun = 0.0, 0.0, 0.0
        self.losses: list[float] = []
        self.parts: dict[str, float] = {}
        self._watch, self._started, self._cpu_started = watch, 0.0, 0.0

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Notes when the first step began."""
        self.begun = self.begun or time.perf_counter()

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
            if self._watch is not None:
                self.parts = dict(self._watch.seconds)  # without the evaluation that follows

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Keeps the loss."""
        if "loss" in kwargs["logs"]:
            self.losses.append(float(kwargs["logs"]["loss"]))


@dataclass(frozen=True)
class Round:
    """What one training of one side gave.

    Attributes:
        steps_per_second: Optimizer steps.
        start_s: Seconds before the first step: model, data, the reference where it is computed ahead.
        cpu_ms: Milliseconds of processor time of a step, summed over threads: what a busy machine disturbs less.
        losses: Training loss at every log line.
        parts: Milliseconds of a step by part, where parts were timed.
    """

    steps_per_second: float
    start_s: float
    cpu_ms: float
    losses: list[float]
    parts: dict[str, float]


def ours(config: Config, folder: Path) -> Trainer:
    """Builds this project's trainer, as a run builds it."""
    hooks = Hooks(progress=lambda step, total: None, stop_requested=lambda: False, fence=lambda: None)
    (folder / "checkpoints").mkdir()
    # The assembly of the product itself, not a copy: what it sets is what is measured.
    place = Folder(folder / "checkpoints", folder / "metrics.jsonl", folder / "samples.jsonl")
    trainer = build_trainer(config, build(config), place, hooks)
    trainer.precompute_reference_logps()  # as a run does before it trains
    return trainer


def trl_precomputed(config: Config, folder: Path) -> Trainer:
    """Builds TRL's trainer with `precompute_ref_log_probs`."""
    return trl(config, folder, precomputed=True)


def trl(config: Config, folder: Path, precomputed: bool = False) -> Trainer:
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
        ref_model=None if precomputed else copy.deepcopy(parts.policy),
        args=_trl_arguments(config, parts.steps, folder, precomputed),
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=parts.tokenizer,
    )
    for row, pair in zip(cast("Any", trainer.train_dataset), map(tokens.__getitem__, range(len(tokens))), strict=True):
        if (row["prompt_ids"], row["chosen_ids"], row["rejected_ids"]) != (pair.prompt, pair.chosen, pair.rejected):
            raise RuntimeError(f"both sides must train on the same tokens, but TRL made {row} of {pair}")
    return cast("Trainer", trainer)


def _trl_arguments(config: Config, steps: int, folder: Path, precomputed: bool) -> DPOConfig:
    params, optimizer = config["training"]["training_params"], config["optimizer"]["optimizer_params"]
    return DPOConfig(
        output_dir=str(folder),
        beta=config["loss"]["beta"],
        precompute_ref_log_probs=precomputed,
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


def _reference(trainer: Any) -> torch.nn.Module | None:
    if isinstance(trainer, DPOTrainer):
        return cast("torch.nn.Module | None", trainer.ref_model)
    reference = trainer.forwards.reference
    return None if reference is None else cast("torch.nn.Module | None", reference.model)


SIDES: dict[str, Side] = {"ours": ours, "TRL": trl, "TRL precomputed": trl_precomputed}


def train_once(side: Side, config: Config, timed_parts: bool = False) -> Round:
    """Trains one side once, from the start weights."""
    watch = Stopwatch() if timed_parts else None
    with ExitStack() as stack:
        stack.enter_context(fresh_accelerate())
        started = time.perf_counter()
        trainer = side(config, Path(stack.enter_context(tempfile.TemporaryDirectory())))
        clock = Clock(watch)
        trainer.add_callback(clock)
        trainer.remove_callback(PrinterCallback)
        if watch is not None:
            stack.enter_context(watch.watch_optimizers())
            watch.watch_module(cast("torch.nn.Module", trainer.model), "policy forward")
            if (reference := _reference(trainer)) is not None:
                watch.watch_module(reference, "reference forward")
            watch.wrap(trainer, "compute_loss", "compute_loss")
            watch.wrap(trainer, "get_batch_samples", "batch")
            watch.wrap(trainer.accelerator, "backward", "backward")
            watch.wrap(trainer.accelerator, "clip_grad_norm_", "clipping")
        trainer.train()
        steps = trainer.state.max_steps - SKIPPED_STEPS
    parts = _parts(clock.parts, clock.seconds, steps) if watch is not None else {}
    return Round(steps / clock.seconds, clock.begun - started, clock.cpu_seconds / steps * 1e3, clock.losses, parts)


def _parts(seconds: Mapping[str, float], total: float, steps: int) -> dict[str, float]:
    forwards = seconds["policy forward"] + seconds.get("reference forward", 0.0)
    names = ("batch", "policy forward", "reference forward", "backward", "clipping", "optimizer")
    parts = {name: seconds.get(name, 0.0) for name in names}
    parts["loss and metrics"] = seconds["compute_loss"] - forwards
    parts["the rest"] = total - sum(parts.values())
    return {**{name: value / steps * 1e3 for name, value in parts.items()}, "step": total / steps * 1e3}


def compare(config: Config, rounds: int, peak_tflops: float | None) -> None:
    """Trains all sides alternately and prints what came out."""
    pairs = config["training"]["training_params"]["batch_size"]
    found: dict[str, list[Round]] = {name: [] for name in SIDES}
    for number in range(rounds + 1):
        for name in SIDES if number % 2 else reversed(SIDES):
            result = train_once(SIDES[name], config)
            note = f" (discarded; {result.start_s:.1f} s before the first step)" if number == 0 else ""
            print(f"round {number} {name:<15} {result.steps_per_second * pairs:8.2f} pairs/s{note}", flush=True)
            if number:
                found[name].append(result)
    print()
    speeds = {name: [result.steps_per_second * pairs for result in results] for name, results in found.items()}
    cpu = {name: [result.cpu_ms for result in results] for name, results in found.items()}
    for name, results in found.items():
        start_s = statistics.median(result.start_s for result in results)
        print(f"{name:<15} {_spread(speeds[name])} pairs/s, {_spread(cpu[name])} ms of CPU time a step,")
        print(f"{'':<15} {start_s:.1f} s before the first step, as measured again in later rounds")
        print(f"{'':<15} loss at the log lines: {' '.join(f'{loss:.4f}' for loss in results[-1].losses)}")
    for other in list(SIDES)[1:]:
        print(f"ours / {other} in pairs/s:  {_spread(_ratios(speeds['ours'], speeds[other]))}")
        print(f"{other} / ours in CPU time: {_spread(_ratios(cpu[other], cpu['ours']))}")
    print_utilization(config, {name: statistics.median(values) for name, values in speeds.items()}, peak_tflops)
    _print_parts({name: train_once(side, config, timed_parts=True).parts for name, side in SIDES.items()})


def print_utilization(config: Config, speeds: Mapping[str, float], peak_tflops: float | None) -> None:
    """Prints the floating point operations that the pairs need a second, and their share of what the device can do.

    Counted are the products of matrices of one forward of the policy and of its backward, twice as many; of every token
    once, the prompt too, without padding; of the head for tokens that predict a completion; of attention between
    tokens that see each other. Not counted: the reference, what is computed twice, anything but products. So all sides
    are measured by the same work.
    """
    flops = _flops_of_a_pair(config)
    for name, speed in speeds.items():
        share = "" if peak_tflops is None else f", {speed * flops / peak_tflops / 1e12:.1%} of {peak_tflops:g} TFLOP/s"
        print(f"{name:<15} {speed * flops / 1e9:.1f} GFLOP/s of the model{share}")


def _flops_of_a_pair(config: Config) -> float:
    parts = build(config)
    order, batch_size = parts.order(config), config["training"]["training_params"]["batch_size"]
    pairs = [order[index] for index in range(min(len(order), 20 * batch_size))]
    shape = parts.policy.config
    head = parts.policy.get_output_embeddings()
    matrices = sum(
        weight.numel()
        for name, weight in parts.policy.named_parameters()
        if weight.ndim == 2 and not any(part in name for part in ("wte", "wpe", "embed", "lm_head"))
    )
    total = 0.0
    for pair in pairs:
        prompt, own = len(pair.prompt), [len(pair.chosen) - 1, len(pair.rejected) - 1]
        seen = prompt * (prompt + 1) / 2 + sum(length * prompt + length * (length + 1) / 2 for length in own)
        total += 2 * matrices * (prompt + sum(own)) + 2 * head.weight.numel() * (sum(own) + 2)
        total += 4 * shape.num_hidden_layers * shape.hidden_size * seen
    return 3 * total / len(pairs)


def _resident_mb(key: str) -> float:
    """Returns memory of this process, VmRSS (now) or VmHWM (the most), MiB."""
    if torch.cuda.is_available():
        now = torch.cuda.memory_allocated() if key == "VmRSS" else torch.cuda.max_memory_allocated()
        return now / 2**20
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1]) / 1024


def _forget_peak() -> None:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


class Memory(TrainerCallback):
    """Measures the most memory of the steps above that with the weights alone."""

    def __init__(self) -> None:
        self.weights_mb = 0.0

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Takes what there is before the first step."""
        _forget_peak()
        self.weights_mb = _resident_mb("VmRSS")


def measure_memory(side: Side, config: Config) -> dict[str, float]:
    """Returns MiB of one training in this process, which did nothing before."""
    with ExitStack() as stack:
        stack.enter_context(fresh_accelerate())
        trainer = side(config, Path(stack.enter_context(tempfile.TemporaryDirectory())))
        memory = Memory()
        trainer.add_callback(memory)
        trainer.remove_callback(PrinterCallback)
        stack.enter_context(_without_evaluation(trainer))
        trainer.train()
    return {"above": _resident_mb("VmHWM") - memory.weights_mb, "weights": memory.weights_mb}


@contextmanager
def _without_evaluation(trainer: Trainer) -> Iterator[None]:
    """Has a trainer train only: TRL's is given no data to evaluate on, ours evaluates before and after training."""
    trainer.evaluate = lambda *_, **__: {}  # type: ignore[method-assign]
    yield


def compare_memory(steps: int, overrides: Sequence[str], threads: int | None) -> None:
    """Prints the memory of all sides, each in its own process."""
    found = {}
    for name in SIDES:
        command = [sys.executable, __file__, "--memory-of", name, "--steps", str(steps)]
        command += ["--threads", str(threads)] if threads is not None else []
        result = subprocess.run([*command, *overrides], capture_output=True, text=True, check=True)
        found[name] = json.loads(result.stdout.splitlines()[-1])
    print(f"\n{'MiB':<20}" + "".join(f"{name:>17}" for name in found))
    for key, label in (("above", "above the weights"), ("weights", "before the first step")):
        print(f"{label:<22}" + "".join(f"{values[key]:17.1f}" for values in found.values()))
    print(f"ours / TRL above the weights: {found['ours']['above'] / found['TRL']['above']:.2f}")


def _ratios(upper: Sequence[float], lower: Sequence[float]) -> list[float]:
    return [over / under for over, under in zip(upper, lower, strict=True)]


def _spread(values: Sequence[float]) -> str:
    return f"median {statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def _print_parts(parts: Mapping[str, Mapping[str, float]]) -> None:
    print(f"\n{'ms a step':<20}" + "".join(f"{name:>17}" for name in parts))
    for part in next(iter(parts.values())):
        print(f"{part:<20}" + "".join(f"{values[part]:17.2f}" for values in parts.values()))
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
        "training.training_params.eval_every=1000000",  # before the first step and after the last, not between
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
    parser.add_argument("--peak-tflops", type=float, default=None, help="of the device: 989 for an H100 in bf16")
    parser.add_argument("--memory-of", choices=SIDES, default=None, help=argparse.SUPPRESS)
    parser.add_argument("overrides", nargs="*", help="Hydra overrides of the project's config")
    arguments = parser.parse_args()
    for cache in ("GPTOPT_CACHE", "HF_DATASETS_CACHE"):
        atexit.register(shutil.rmtree, os.environ[cache], ignore_errors=True)
    if arguments.steps < 10 or arguments.rounds < 1:
        parser.error("--steps must be at least 10, where the first loss is logged, and --rounds at least 1")
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    warnings.simplefilter("ignore", FutureWarning)  # of TRL's own use of transformers
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    config = load_config(arguments.steps, arguments.overrides)
    if arguments.memory_of is not None:
        print(json.dumps(measure_memory(SIDES[arguments.memory_of], config)))
        return
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    print(f"{device}; load average {os.getloadavg()[0]:.2f}; torch {torch.__version__}")
    compare(config, arguments.rounds, arguments.peak_tflops)
    compare_memory(min(arguments.steps, 15), arguments.overrides, arguments.threads)


if __name__ == "__main__":
    main()
