"""transformers.Trainer with our losses, metrics, order and checkpoints.

The Trainer's distribution, precision, clipping and loop stay as they are. What is replaced: how a batch becomes a loss,
what is measured, the optimizer and its schedule, and how a checkpoint reaches the disk.
"""

from __future__ import annotations

import itertools
import json
import logging
import math
import time
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, Trainer, TrainingArguments, set_seed
from transformers.trainer_callback import PrinterCallback

from gpt_opt.config.inputs import Inputs
from gpt_opt.errors import DataError, Problem
from gpt_opt.records.run_dir import PROGRESS_FILE
from gpt_opt.training.checkpoint_compat import checkpoint_step, require_engine, require_inputs, settings_of
from gpt_opt.training.checkpointing import (
    OPTIMIZER_FILE,
    SCHEDULER_FILE,
    WEIGHTS,
    checkpoint_path,
    commit_checkpoint,
    damaged_files,
    record_sizes,
    remove_beyond,
    sync_tree,
    usual_modes,
    whole_or_removed,
)
from gpt_opt.training.data.order import Collate, TrainingOrder
from gpt_opt.training.failures import require_finite
from gpt_opt.training.generation import Sampler
from gpt_opt.training.interface import Folder, Hooks
from gpt_opt.training.metrics import Means, MetricsFile, Reduce, StepFile
from gpt_opt.training.model_selection import Best
from gpt_opt.training.models.build import Reference, cast_weights
from gpt_opt.training.optimizers import load_state_by_name, state_by_name
from gpt_opt.training.sharding import (
    divide_reference,
    full_optimizer_state,
    full_weights,
    load_optimizer_state,
    load_weights,
    prepare_fsdp,
)

log = logging.getLogger(__name__)

Batch = dict[str, Any]


def _own(values: Tensor) -> Tensor:
    return values


@dataclass(frozen=True)
class Task:
    """What is trained on what, besides model and loss.

    Attributes:
        order: All training items in order.
        validation: Evaluation data, items of the same kind.
        collator: Makes batches of items.
        optimizer: Of the policy's parameters.
        schedule: The factor on the learning rate at each step, applied to that optimizer.
        save_total_limit: Newest checkpoints to keep; None keeps all.
        folder: Where to write.
        hooks: Whom to tell and ask.
        data_fingerprint: SHA-256 of training and validation data; a resume with other data is refused.
        inputs: Files and modules of the run with their fingerprints; a resume with other weights is refused.
        best: Compares the evaluations; None where nothing depends on which is best.
        sampler: Lets the models write at every evaluation; None where that is not asked for.
    """

    order: TrainingOrder
    validation: Sequence[Any]
    collator: Collate
    optimizer: Optimizer
    schedule: LambdaLR
    save_total_limit: int | None
    folder: Folder
    hooks: Hooks
    data_fingerprint: str
    inputs: Inputs
    best: Best | None
    sampler: Sampler | None


class BaseTrainer(Trainer):
    """What all losses share.

    Args:
        model: The policy.
        arguments: Of the Trainer.
        task: What it is trained on.
        loss: What computes the loss; `batch_loss` knows how it is called.
        reference: What the policy is compared with, where there is one.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        arguments: TrainingArguments,
        task: Task,
        loss: Any,
        reference: Reference | None = None,
    ) -> None:
        super().__init__(
            model=model,
            args=arguments,
            data_collator=cast("Any", task.collator),
            train_dataset=task.order,
        )
        self.remove_callback(PrinterCallback)
        self.task, self.loss, self.reference = task, loss, reference
        if reference is not None and reference.model is not None:
            cast("nn.Module", reference.model).to(self.args.device).eval().requires_grad_(False)
            if self.is_deepspeed_enabled:  # which has no autocast: it rounds the weights of the policy
                cast_weights(reference.model, self.args.hf_deepspeed_config.dtype())
            reference.model = divide_reference(reference.model, arguments, self.accelerator)
        self.means = Means()
        self.metrics_file = MetricsFile(task.folder.metrics)
        self.samples_file = StepFile(task.folder.samples)
        self.last_metrics: dict[str, float] = {}
        self.tokens = 0
        self._started = time.perf_counter()
        self._tokens_at_log, self._time_at_log = 0, time.perf_counter()
        self._saving_to: Path | None = None
        self._step_loss: Tensor | None = None
        self._batch, self._shape = "the start", (0, 0)

    @abstractmethod
    def batch_loss(self, model: PreTrainedModel, batch: Batch, means: Means, with_kl: bool) -> tuple[Tensor, float]:
        """Returns the summed loss of a batch and its number of units (tokens, pairs ...), and adds its metrics."""

    @abstractmethod
    def units(self, batch: Batch) -> float:
        """Returns the number of units of a batch that its summed loss is divided by."""

    def prepare(self, batches: Iterable[Batch]) -> None:
        """Finds what the losses of a step, or of an evaluation, need to know of all its batches on all processes."""

    def take(self, means: Means, reduce: Reduce) -> dict[str, float]:
        """Returns the means and what follows from them, and starts anew."""
        return means.take(reduce)

    def _logits(self, model: PreTrainedModel, batch: Batch) -> Tensor:
        """Returns the logits (R, K, V) of the last K positions."""
        keep, self._shape = batch["logits_to_keep"], tuple(batch["input_ids"].shape)
        output = model(input_ids=batch["input_ids"], use_cache=False, logits_to_keep=keep)
        return cast("Tensor", output.logits[:, -keep:])

    # -- the engine ---------------------------------------------------------------------------------------------

    def create_accelerator_and_postprocess(self) -> None:
        """Makes the accelerator, which may divide the model among the processes."""
        super().create_accelerator_and_postprocess()
        if self.args.fsdp:
            prepare_fsdp(self.accelerator, self.args.fsdp_plugin_args)
            self.is_fsdp_enabled = True

    def _engine(self) -> str | None:
        """Returns how DeepSpeed divides the training, which a checkpoint of it must keep; None without DeepSpeed."""
        if not self.is_deepspeed_enabled:
            return None
        stage = cast("dict[str, Any]", self.args.deepspeed)["zero_optimization"]["stage"]
        return f"with ZeRO {stage} on {self.args.world_size} processes"

    def create_optimizer(self, model: nn.Module | None = None) -> Optimizer:
        """Takes the optimizer of the task."""
        self.optimizer = self.task.optimizer
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Optimizer | None = None) -> LambdaLR:
        """Takes the schedule of the task."""
        self.lr_scheduler = self.task.schedule
        return self.task.schedule

    # -- training step ------------------------------------------------------------------------------------------

    def get_batch_samples(
        self, epoch_iterator: Iterator[Batch], num_batches: int, device: torch.device
    ) -> tuple[list[Batch], Tensor]:
        """Returns the micro-batches of one optimizer step and their units over all processes."""
        batches = list(itertools.islice(epoch_iterator, num_batches))
        self.require_finite_step()  # of the step before; asked here, the device works while the batches are made
        self._batch = f"step {self.state.global_step + 1}"
        self.prepare(batches)
        self.tokens += self._step_tokens()
        total = torch.tensor(float(sum(self.units(batch) for batch in batches)), device=device)
        return batches, self._sum(total)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """Returns the share of this micro-batch in the mean loss of the optimizer step."""
        assert num_items_in_batch is not None
        step = self.state.global_step + 1
        with_kl = step % int(self.args.logging_steps) == 0 or step == self.args.max_steps
        total, _ = self.batch_loss(cast("PreTrainedModel", model), inputs, self.means, with_kl)
        # Data parallelism averages gradients over processes; the sum over all units wants their sum.
        share: Tensor = total * self.args.world_size / num_items_in_batch
        self._step_loss = share.detach() if self._step_loss is None else self._step_loss + share.detach()
        return share

    def require_finite_step(self) -> None:
        """Checks the loss of the last step, once; every process of the training finds the same.

        The loop asks when it makes the batch of the next step, and before anything is logged, measured or saved. So
        each step is checked at the price of one number read from the device, and none that failed is kept.

        Raises:
            LossNotFinite: If it is no finite number.
        """
        if self._step_loss is None:
            return
        loss, self._step_loss = self._sum(self._step_loss).item() / self.args.world_size, None
        if not math.isfinite(loss):
            step, order = self.state.global_step, self.task.order
            positions = [order.position(place) for place in self._places(step - 1)]
            require_finite(loss, "loss", step, order.noun, positions)

    def batch(self) -> str:
        """Returns which batch is worked on, and its shape."""
        rows, width = self._shape
        return f"{self._batch}: a batch of {rows} sequences x {width} tokens" if rows else self._batch

    def _places(self, step: int) -> range:
        """Returns the places in the order of the step after `step` steps."""
        size = len(self.task.order) // self.args.max_steps
        return range(step * size, (step + 1) * size)

    def _step_tokens(self) -> int:
        """Returns the tokens of the coming step over all processes, without padding: that depends on who has what."""
        order = self.task.order
        return sum(self._tokens(order[place]) for place in self._places(self.state.global_step))

    def _tokens(self, item: Any) -> int:
        return sum(len(prompt) + len(answer) for prompt, answer in self.task.collator.rows(item))

    def on_any(self, flag: bool) -> bool:
        """Returns whether `flag` holds on any process; all of them ask at the same step and get the same answer."""
        if self.args.world_size == 1:
            return flag
        return bool(self._sum(torch.tensor(float(flag), device=self.args.device)).item())

    def _sum(self, values: Tensor) -> Tensor:
        return cast("Tensor", self.accelerator.reduce(values, reduction="sum")) if self.args.world_size > 1 else values

    # -- metrics ------------------------------------------------------------------------------------------------

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Writes a row of metrics; training rows carry our own means instead of the Trainer's window average."""
        if "learning_rate" in logs:
            elapsed = time.perf_counter() - self._time_at_log
            speed = (self.tokens - self._tokens_at_log) / max(elapsed, 1e-9)
            self._tokens_at_log, self._time_at_log = self.tokens, time.perf_counter()
            own = self.take(self.means, self._sum)
            own.update((name, float(logs[name])) for name in ("grad_norm", "learning_rate") if name in logs)
            logs = {**own, "tokens_per_second": round(speed, 1)}
        elif "eval/loss" not in logs:
            return
        self.task.hooks.fence()
        if self.is_world_process_zero():
            self.metrics_file.append(self.state.global_step, logs)
            self.task.hooks.report(self.state.global_step, logs)
        self.last_metrics.update(logs)
        super().log(dict(logs), start_time)

    @torch.no_grad()
    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Measures the validation data; every example once, split over the processes."""
        items = self.task.validation
        # With fewer items than processes some had none, and no names to sum: then each measures all of them.
        split = len(items) >= self.args.world_size
        rank, count = (self.args.process_index, self.args.world_size) if split else (0, 1)
        # A generator of its own keeps the loader from drawing on the global random state, which a resume must find.
        loader = DataLoader(
            cast("Any", items),
            batch_sampler=even_batches(len(items), self.args.per_device_eval_batch_size, rank, count),
            collate_fn=self.task.collator,
            generator=torch.Generator(),
        )
        model = cast("PreTrainedModel", self.accelerator.unwrap_model(self.model))
        training, means, started = model.training, Means(), time.perf_counter()
        self._batch = f"the evaluation after step {self.state.global_step}"
        model.eval()
        self.prepare(cast("Iterable[Batch]", loader))
        for batch in loader:
            self.batch_loss(model, cast("Batch", self._prepare_inputs(batch)), means, with_kl=True)
        model.train(training)
        result = {f"eval/{name}": value for name, value in self.take(means, self._sum if split else _own).items()}
        result["eval/seconds"] = round(time.perf_counter() - started, 3)
        self.log(dict(result))
        require_finite(result["eval/loss"], "validation loss", self.state.global_step)
        if self.task.sampler is not None:
            self._sample(self.task.sampler, model)
        self._time_at_log += time.perf_counter() - started
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, result)
        if self.task.best is not None:
            self._compare(self.task.best, result)
        return result

    def _sample(self, sampler: Sampler, model: PreTrainedModel) -> None:
        """Adds to samples.jsonl what the models write now; all processes take part, as sharded models need it."""
        self._batch, self._shape = f"the samples after step {self.state.global_step}", (0, 0)
        training = model.training
        model.eval()
        with self.accelerator.autocast():  # the reference alone would write in full precision
            rows = sampler.rows(model, self.reference, self.args.device)
        model.train(training)
        self.task.hooks.fence()
        if self.is_world_process_zero():
            self.samples_file.write(self.state.global_step, rows)

    def _compare(self, best: Best, result: dict[str, float]) -> None:
        """Saves when this evaluation is the best of the training, and ends it when there was none for too long."""
        best.require_metric(result)
        if (step := self.state.global_step) == 0:
            return
        # The first process decides for all: numbers of others may differ in the last digit.
        improved = self.is_world_process_zero() and best.see(step, result)
        over = self.on_any(self.is_world_process_zero() and best.over)
        if self.on_any(improved and best.keeps) or over:
            self.control.should_save = True
        if over:
            self.control.should_training_stop = True

    # -- checkpoints --------------------------------------------------------------------------------------------

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._saving_to or self.task.folder.checkpoints)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Saves beside the checkpoints, then renames: a folder named checkpoint-<step> is always whole."""
        self.task.hooks.fence()
        progress = {"means": self.means.state(self._sum), "tokens": self.tokens, "time_s": self.time_s()}
        progress["data_fingerprint"], progress["inputs"] = self.task.data_fingerprint, self.task.inputs
        progress["order"] = self.task.order.settings()
        progress["engine"], progress["optimizer"] = self._engine(), settings_of(self.task.optimizer)
        best = self.task.best
        progress["best"] = None if best is None else best.state()
        folder = self.task.folder.checkpoints
        staging = folder / f".saving-{self.state.global_step}"
        self._saving_to = staging
        try:
            with whole_or_removed(staging):
                super()._save_checkpoint(model, trial)
        finally:
            self._saving_to = None
        self.accelerator.wait_for_everyone()
        if self.is_world_process_zero():
            saved = next(staging.glob("checkpoint-*"))
            with whole_or_removed(staging):
                (saved / PROGRESS_FILE).write_text(json.dumps(progress))
                self.metrics_file.sync()
                self.samples_file.sync()
                record_sizes(saved)
                usual_modes(saved)
                sync_tree(saved)
            self.task.hooks.fence()
            commit_checkpoint(saved, folder)
            kept = best.step if best is not None and best.keeps else None
            remove_beyond(folder, self.state.global_step, self.task.save_total_limit, kept)
        self.accelerator.wait_for_everyone()

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Saves the model, in the one form that every training has."""
        if not self.is_fsdp_enabled:
            super().save_model(output_dir, _internal_call)
            return
        weights = full_weights(cast("nn.Module", self.model))
        if self.args.should_save:
            self._save(output_dir, state_dict=weights)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """Writes the state of the optimizer by names, in one form whether it is sharded by FSDP or not."""
        if self.is_deepspeed_enabled:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        model, optimizer = cast("nn.Module", self.model), self.task.optimizer
        state = full_optimizer_state(model, optimizer) if self.is_fsdp_enabled else state_by_name(model, optimizer)
        if self.args.should_save:
            torch.save(state, Path(output_dir, OPTIMIZER_FILE))
            torch.save(self.task.schedule.state_dict(), Path(output_dir, SCHEDULER_FILE))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if self.is_deepspeed_enabled or checkpoint is None:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        saved = torch.load(Path(checkpoint, OPTIMIZER_FILE), map_location="cpu", weights_only=True)
        load = load_optimizer_state if self.is_fsdp_enabled else load_state_by_name
        load(cast("nn.Module", self.model), self.task.optimizer, saved)
        self.task.schedule.load_state_dict(torch.load(Path(checkpoint, SCHEDULER_FILE), weights_only=True))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if not self.is_fsdp_enabled:  # of which `restore_progress` has loaded the weights before they were divided
            load_weights(cast("PreTrainedModel", self.model), Path(resume_from_checkpoint))

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Restores the random state of this process, or draws anew when another number of processes saved it."""
        name = f"rng_state_{self.args.process_index}.pth" if self.args.world_size > 1 else "rng_state.pth"
        if checkpoint is None or Path(checkpoint, name).is_file():
            super()._load_rng_state(checkpoint)
            return
        set_seed((self.args.seed + self.state.global_step) % 2**32)

    def time_s(self) -> float:
        """Returns the seconds since this trainer was made, and of the attempts before it up to their checkpoints."""
        return time.perf_counter() - self._started

    def keep_until(self, step: int) -> dict[str, float]:
        """Drops what was written after `step`, and returns the last value of each metric that stays."""
        self.samples_file.keep_until(step)
        return self.metrics_file.keep_until(step)

    def restore_progress(self, checkpoint: Path) -> None:
        """Continues metrics.jsonl, the means of the current log window, and the counts from a checkpoint.

        Raises:
            DataError: If the checkpoint was trained on other data.
            ConfigError: If DeepSpeed divided the training otherwise, or not at all.
        """
        require_engine(checkpoint, self._engine())
        step = checkpoint_step(checkpoint)
        progress = json.loads((checkpoint / PROGRESS_FILE).read_text())
        if progress["data_fingerprint"] != self.task.data_fingerprint:
            old, new = progress["data_fingerprint"][:12], self.task.data_fingerprint[:12]
            problem = f"must be the data that {checkpoint.name} was trained on, {old}, but is now {new}"
            raise DataError([Problem("data.dataset", problem, "restore the data, or train from the start: rerun=true")])
        require_inputs(checkpoint, progress.get("inputs", {}), self.task.inputs)
        if self.is_fsdp_enabled:
            load_weights(cast("PreTrainedModel", self.model), checkpoint)
        self.tokens = self._tokens_at_log = progress["tokens"]
        self._started -= progress["time_s"]
        if self.task.best is not None and checkpoint.parent == self.task.folder.checkpoints:
            self._restore_best(self.task.best, progress["best"])
        if self.is_world_process_zero():
            self.last_metrics = self.keep_until(step)
            self.means.load(progress["means"], self.args.device)

    def _restore_best(self, best: Best, state: dict[str, Any]) -> None:
        best.load(state)
        kept = checkpoint_path(self.task.folder.checkpoints, best.step)
        if best.keeps and kept is not None and (not kept.is_dir() or any(damaged_files(kept, *WEIGHTS))):
            log.warning(
                "%s, the best so far, is gone or damaged: the best of the evaluations to come is kept instead", kept
            )
            best.forget()


def even_batches(items: int, size: int, rank: int, count: int) -> list[list[int]]:
    """Divides items among processes, and those of each among batches.

    Where weights are divided the processes gather them together in every forward. So all have the same number of
    batches, none of them empty: for that a batch of several processes has up to 2 items where `size` is 1.

    Args:
        items: Number of items, at least `count`.
        size: Items of a batch.
        rank: The process that asks.
        count: Number of processes.

    Returns:
        The places of the items of each batch.
    """
    mine = range(rank, items, count)
    if count == 1:
        return [list(mine[start : start + size]) for start in range(0, items, size)]
    most = math.ceil(items / count)
    batches = math.ceil(most / max(size, 2))
    bounds = [len(mine) * index // batches for index in range(batches + 1)]
    return [list(mine[start:end]) for start, end in itertools.pairwise(bounds)]


@contextmanager
def fresh_accelerate() -> Iterator[None]:
    """Forgets accelerate's process-wide state before and after a run, so that runs of one process do not meet."""
    from accelerate.state import AcceleratorState, GradientState

    def forget() -> None:
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()

    forget()
    try:
        yield
    finally:
        forget()
