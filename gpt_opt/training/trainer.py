"""transformers.Trainer with our objectives, metrics, order and checkpoints.

The Trainer's distribution, precision, clipping and loop stay as they are. What is replaced: how a batch becomes a loss,
what is measured, the optimizer and its schedule, and how a checkpoint reaches the disk.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainingArguments, set_seed
from transformers.trainer_callback import PrinterCallback

from gpt_opt.records.io import fenced
from gpt_opt.records.provenance import Inputs
from gpt_opt.records.run_dir import step_of
from gpt_opt.records.step_log import MetricsLog, StepLog
from gpt_opt.training.checkpoint_compat import settings_of
from gpt_opt.training.checkpointing import (
    OPTIMIZER_FILE,
    SCHEDULER_FILE,
    commit_checkpoint,
    finish_checkpoint,
    remove_beyond,
    staging_folder,
    whole_or_removed,
)
from gpt_opt.training.data.order import Batch, Collate, TrainingOrder
from gpt_opt.training.distributed import Processes
from gpt_opt.training.evaluation import compare, measure
from gpt_opt.training.failures import require_finite
from gpt_opt.training.forwards import Forwards
from gpt_opt.training.interface import Folder, Hooks
from gpt_opt.training.lazy_deepspeed import without_deepspeed
from gpt_opt.training.metrics import Progress
from gpt_opt.training.model_selection import Best
from gpt_opt.training.models.build import Reference
from gpt_opt.training.objectives import Objective
from gpt_opt.training.optimizers import load_state_by_name, state_by_name
from gpt_opt.training.optimizers.evaluation_weights import EvaluationWeights
from gpt_opt.training.optimizers.protocols import SeesMicroBatches, UsesLoss
from gpt_opt.training.reference_logps import ReferenceLogps
from gpt_opt.training.saving import Saving, fits_host, on_host, with_own_configs
from gpt_opt.training.sharding import (
    full_optimizer_state,
    full_weights,
    load_optimizer_state,
    load_weights,
    prepare_fsdp,
    sharding_of,
)


@dataclass(frozen=True)
class Task:
    """What is trained on what, besides model and objective.

    Attributes:
        order: All training items in order.
        validation: Evaluation data, items of the same kind.
        collator: Makes batches of items.
        optimizer: Of the policy's parameters.
        schedule: The factor on the learning rate at each step, applied to that optimizer.
        save_total_limit: Newest checkpoints to keep; None keeps all.
        folder: Where to write.
        hooks: Of whoever runs the training.
        data_fingerprint: SHA-256 of training and validation data; a resume with other data is refused.
        inputs: Files and modules of the run with their fingerprints; a resume with other weights is refused.
        best: Compares the evaluations; None where nothing depends on which is best.
        evaluation_weights: What is evaluated and saved.
        precomputes: Whether steps are to do without the reference: they measure no `kl`, and it leaves the device.
        reference_logps: What they are given in its place, where that is.
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
    evaluation_weights: EvaluationWeights
    precomputes: bool = False
    reference_logps: ReferenceLogps | None = None


class ObjectiveTrainer(Trainer):
    """Trains a policy on an objective.

    Args:
        model: The policy.
        arguments: Of the Trainer.
        task: What it is trained on.
        objective: What is minimised.
        reference: What the policy is compared with, where there is one.

    Attributes:
        forwards: The models, as the objective calls them.
        progress: What has been done so far.
        processes: All that train together.
        saving: What writes the checkpoints.
        draws_anew: Whether the coming step sets the random state, as another number of processes saved theirs.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        arguments: TrainingArguments,
        task: Task,
        objective: Objective,
        reference: Reference | None = None,
    ) -> None:
        super().__init__(
            model=model,
            args=arguments,
            data_collator=cast("Any", task.collator),
            train_dataset=task.order,
        )
        self.remove_callback(PrinterCallback)
        self.task = task
        self.objective: Objective = objective
        self.processes = Processes(
            self.args.process_index,
            self.args.world_size,
            self.args.device,
            lambda values: cast("Tensor", self.accelerator.reduce(values, reduction="sum")),
        )
        longest = objective.limits.max_length
        self.forwards = objective.forwards = Forwards(self, reference, self.processes, longest)
        self.progress = Progress()
        self.metrics_log = MetricsLog(task.folder.metrics, task.hooks.fence)
        self.generations_log = StepLog(task.folder.samples, task.hooks.fence)
        self.saving = Saving()
        self._writes: list[Callable[[], None]] = []  # of the checkpoint that is being taken
        self._settings = settings_of(task.optimizer)
        self._steps_ask = True  # the reference
        self._step_loss: Tensor | None = None
        self._micro_batches = self._micro_batches_left = 0
        self.draws_anew = False

    # -- setup --------------------------------------------------------------------------------------------------

    def create_accelerator_and_postprocess(self) -> None:
        """Makes the accelerator, which may shard the model."""
        super().create_accelerator_and_postprocess()
        if not self.is_deepspeed_enabled:
            self.accelerator.unwrap_model = without_deepspeed()(self.accelerator.unwrap_model)
        if self.args.fsdp:
            prepare_fsdp(self.accelerator, self.args.fsdp_plugin_args)
            self.is_fsdp_enabled = True

    def create_optimizer(self, model: nn.Module | None = None) -> Optimizer:
        """Takes the optimizer of the task."""
        self.optimizer = self.task.optimizer
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Optimizer | None = None) -> LambdaLR:
        """Takes the schedule of the task."""
        self.lr_scheduler = self.task.schedule
        return self.task.schedule

    def precompute_reference_logps(self) -> None:
        """Gives the coming steps the log-probabilities of the reference, in place of itself."""
        task, forwards = self.task, self.forwards
        if task.reference_logps is None:
            return
        forwards.begin("the log-probabilities of the reference")
        training = forwards.policy.training
        forwards.policy.eval()  # which is the reference where adapters are trained
        with forwards.with_reference(leaves=True):
            self._steps_ask = not task.reference_logps.fill(
                lambda batch: forwards.reference_logps(forwards.on_device(batch)), task.hooks.stop_requested
            )
        forwards.policy.train(training)
        self.data_collator = cast("Any", task.reference_logps.collator(task.collator))

    # -- training step ------------------------------------------------------------------------------------------

    def get_batch_samples(
        self, epoch_iterator: Iterator[Batch], num_batches: int, device: torch.device
    ) -> tuple[list[Batch], Tensor]:
        """Returns the micro-batches of one optimizer step and their denominator, () float32, over all processes."""
        batches = list(itertools.islice(epoch_iterator, num_batches))
        self.saving.check()
        self.require_finite_step()  # of the step before; asked here, the device works while the batches are made
        if self.draws_anew:
            self.draws_anew = False
            set_seed((self.args.seed + self.state.global_step) % 2**32)
        self.forwards.begin(f"step {self.state.global_step + 1}")
        self._micro_batches = self._micro_batches_left = len(batches)
        if self.state.global_step == 0:
            self.forwards.secure_reference(self._steps_ask)
            if self.forwards.starts_as_reference:
                batches = [self._with_initial_logps(batch) for batch in batches]
        self.objective.prepare(batches)
        self.progress.tokens += self._step_tokens()
        denominators = sum(self.objective.loss_denominator(batch) for batch in batches)
        return batches, self.processes.sum(torch.tensor(float(denominators), device=device))

    @torch.no_grad()
    def _with_initial_logps(self, batch: Batch) -> Batch:
        """Returns a batch whose `reference_logps`, where it has them, are those of the policy, which is equal yet.

        Computed with other sequences before, they are equal but for rounding, by which no pair is to be preferred.
        """
        if "reference_logps" not in batch:
            return batch
        own = self.forwards.on_device(batch)
        return {**own, "reference_logps": self.objective.policy_logps(own)}

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """Returns what this micro-batch adds to the mean loss of the optimizer step, a scalar in float32 or wider."""
        assert num_items_in_batch is not None
        step = self.state.global_step + 1
        is_logged = step % int(self.args.logging_steps) == 0 or step == self.args.max_steps
        with_kl = is_logged and not self.task.precomputes
        policy, optimizer = cast("PreTrainedModel", model), self.task.optimizer
        if isinstance(optimizer, SeesMicroBatches):
            optimizer.begin_micro_batch(self._micro_batches - self._micro_batches_left, self._micro_batches)
        total, _ = self.objective.batch_loss(policy, inputs, self.progress.metrics, with_kl=with_kl)
        # Data parallelism averages gradients over processes; the sum over all items wants their sum.
        loss: Tensor = total * self.args.world_size / num_items_in_batch
        self._step_loss = loss.detach() if self._step_loss is None else self._step_loss + loss.detach()
        self._micro_batches_left -= 1
        # Here and not in `on_pre_optimizer_step`: DeepSpeed takes the step within the backward that comes next.
        if self._micro_batches_left == 0 and isinstance(optimizer, UsesLoss):
            optimizer.observe_loss(self.processes.sum(self._step_loss) / self.args.world_size)
        return loss

    def require_finite_step(self) -> None:
        """Checks the loss of the last step, once; every process of the training finds the same.

        The loop asks when it makes the batch of the next step, and before anything is logged, measured or saved. So
        each step is checked at the cost of one number read from the device, and none that failed is kept.

        Raises:
            LossNotFinite: If it is no finite number.
        """
        if self._step_loss is None:
            return
        loss, self._step_loss = self.processes.sum(self._step_loss).item() / self.args.world_size, None
        if not math.isfinite(loss):
            step, order = self.state.global_step, self.task.order
            positions = [order.position(index) for index in order.of_step(step - 1)]
            require_finite(loss, "loss", step, order.item_name, positions)

    def _step_tokens(self) -> int:
        """Returns the tokens of the coming step over all processes, without padding: that depends on who has what."""
        order, rows = self.task.order, self.task.collator.rows
        items = (order[index] for index in order.of_step(self.state.global_step))
        return sum(len(prompt) + len(completion) for item in items for prompt, completion in rows(item))

    # -- metrics ------------------------------------------------------------------------------------------------

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Writes a row of metrics; training rows carry our own means instead of the Trainer's window average."""
        if "learning_rate" in logs:
            own = self.objective.finish(self.progress.metrics.take(self.processes.sum))
            own.update((name, float(logs[name])) for name in ("grad_norm", "learning_rate") if name in logs)
            logs = {**own, "tokens_per_second": self.progress.tokens_per_second()}
        elif "eval/loss" not in logs:
            return
        if self.is_world_process_zero():
            self.metrics_log.append(self.state.global_step, logs)
            self.task.hooks.report(self.state.global_step, logs)
        self.progress.last_metrics.update(logs)
        super().log(dict(logs), start_time)

    def log_generations(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Adds rows to samples.jsonl."""
        if self.is_world_process_zero():
            self.generations_log.write(self.state.global_step, rows)

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Measures the validation data, with the weights that the optimizer has for it, and lets callbacks look."""
        started, step, task = time.perf_counter(), self.state.global_step, self.task
        self.forwards.begin(f"the evaluation after step {step}")
        with task.evaluation_weights.in_place(), self.forwards.with_reference(leaves=task.precomputes, keeps=True):
            size = self.args.per_device_eval_batch_size
            result = measure(self.objective, self.forwards.policy, task.validation, task.collator, size, self.processes)
            self.log(dict(result))
            require_finite(result["eval/loss"], "validation loss", step)
            self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, result)
        if not self._steps_ask:
            self.forwards.release_reference()
        self.progress.exclude(time.perf_counter() - started)
        if task.best is not None:
            saves, stops = compare(task.best, step, result, self.processes)
            self.control.should_save |= saves
            self.control.should_training_stop |= stops
        return result

    # -- checkpoints --------------------------------------------------------------------------------------------

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Saves beside the checkpoints, then renames: a folder named checkpoint-<step> is always whole.

        What the next steps would change is copied here, and written while they train. Private, as no callback of
        transformers comes before a save, and none after a failed one.
        """
        task, step = self.task, self.state.global_step
        self.saving.wait()
        self._writes.clear()
        task.hooks.fence()
        staging = staging_folder(task.folder.checkpoints, step, task.folder.attempt)
        final_folder = self.args.output_dir
        with task.evaluation_weights.in_place(), whole_or_removed(staging):
            progress = self._progress()
            self.args.output_dir = str(staging)
            try:
                super()._save_checkpoint(model, trial)
            finally:
                self.args.output_dir = final_folder
        self.accelerator.wait_for_everyone()
        if self.is_world_process_zero():
            writes, self._writes = self._writes, []
            best = task.best.step if task.best is not None and task.best.keeps else None
            saved = staging / f"checkpoint-{step}"
            self.saving.start(partial(self._commit, saved, writes, progress, best))
        task.hooks.progress(step, self.state.max_steps)  # the step that a resume would start from
        if any(type(item).on_save is not TrainerCallback.on_save for item in self.callback_handler.callbacks):
            self.finish_saving()  # a user's callback is to find it

    def finish_saving(self) -> None:
        """Waits until the last checkpoint is on disk, for every process of the training."""
        self.saving.wait()
        self.accelerator.wait_for_everyone()

    def _commit(
        self, saved: Path, writes: Sequence[Callable[[], None]], progress: Mapping[str, Any], best: int | None
    ) -> None:
        """Writes what is left of a checkpoint, and puts it where a resume looks; runs beside the next steps."""
        task, fence = self.task, self.task.hooks.fence
        with whole_or_removed(saved.parent), fenced(fence):
            for write in writes:
                self.saving.require()
                write()
            self.metrics_log.sync()
            self.generations_log.sync()
            finish_checkpoint(saved, progress)
            self.saving.require()
            commit_checkpoint(saved, task.folder.checkpoints, fence)
        remove_beyond(task.folder.checkpoints, step_of(saved) or 0, task.save_total_limit, best, fence)

    def _progress(self) -> dict[str, Any]:
        task = self.task
        return {
            **self.progress.state(self.processes.sum),
            "data_fingerprint": task.data_fingerprint,
            "inputs": task.inputs,
            "order": task.order.settings(),
            "engine": sharding_of(self.args),
            "optimizer": self._settings,
            "best": None if task.best is None else task.best.state(),
        }

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Saves the model, in the one form that every training has."""
        model = cast("nn.Module", self.model)
        if not self.is_fsdp_enabled and (self.is_deepspeed_enabled or hasattr(model, "peft_config")):
            with nullcontext() if self.is_deepspeed_enabled else without_deepspeed():
                super().save_model(output_dir, _internal_call)  # adapters are few: a copy would hold their base too
            return
        weights = full_weights(model) if self.is_fsdp_enabled else model.state_dict()
        if self.args.should_save:
            folder = Path(output_dir or str(self.args.output_dir))
            folder.mkdir(parents=True, exist_ok=True)
            saved = cast("PreTrainedModel", model if self.is_fsdp_enabled else with_own_configs(model))

            @without_deepspeed()
            def save(weights: dict[str, Any]) -> None:
                saved.save_pretrained(folder, state_dict=weights)

            if _internal_call:
                self._write_later(save, weights)
            else:  # of no checkpoint
                save(weights)

    def _write_later(self, write: Callable[[dict[str, Any]], None], state: dict[str, Any]) -> None:
        """Writes a state with the checkpoint; now, where FSDP has gathered it or the memory cannot hold it twice."""
        if self.is_fsdp_enabled or not fits_host(state):
            write(state)
        else:
            self._writes.append(partial(write, on_host(state)))

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """Writes the state of the optimizer by names, in one form whether it is sharded by FSDP or not.

        Private, as transformers has no public way to another form of the state.
        """
        if self.is_deepspeed_enabled:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        model, optimizer = cast("nn.Module", self.model), self.task.optimizer
        state = full_optimizer_state(model, optimizer) if self.is_fsdp_enabled else state_by_name(model, optimizer)
        if not self.is_fsdp_enabled and (other := self.task.evaluation_weights.state_dict(model)):
            state["evaluation_weights"] = other
        if self.args.should_save:
            self._write_later(lambda state: torch.save(state, Path(output_dir, OPTIMIZER_FILE)), state)
            torch.save(self.task.schedule.state_dict(), Path(output_dir, SCHEDULER_FILE))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Reads what `_save_optimizer_and_scheduler` writes."""
        if self.is_deepspeed_enabled or checkpoint is None:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        saved = torch.load(Path(checkpoint, OPTIMIZER_FILE), map_location="cpu", weights_only=True)
        load = load_optimizer_state if self.is_fsdp_enabled else load_state_by_name
        model = cast("nn.Module", self.model)
        load(model, self.task.optimizer, saved)
        other = saved.get("evaluation_weights", {})
        if not self.is_fsdp_enabled or "average" in other:  # which is refused there
            self.task.evaluation_weights.load_state_dict(model, other)
        self.task.schedule.load_state_dict(torch.load(Path(checkpoint, SCHEDULER_FILE), weights_only=True))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """Loads weights, which have to be those of the model.

        Private, as transformers only warns of weights that do not fit, and expects files of FSDP's own.
        """
        if not self.is_fsdp_enabled:  # of which `restore` has loaded the weights before they were sharded
            load_weights(cast("PreTrainedModel", self.model), Path(resume_from_checkpoint))

    def keep_until(self, step: int) -> dict[str, float]:
        """Drops what was written after `step`, and returns the last value of each metric that stays."""
        self.generations_log.keep_until(step)
        return self.metrics_log.keep_until(step)
