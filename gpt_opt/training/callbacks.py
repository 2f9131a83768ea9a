"""When to log, evaluate, save and stop; and what a person sees of it."""

from __future__ import annotations

import logging
import sys
from typing import Any

from tqdm.auto import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from gpt_opt.training.metrics import log_line
from gpt_opt.training.trainer import ObjectiveTrainer

log = logging.getLogger(__name__)


class EvalSaveCallback(TrainerCallback):
    """Evaluates at every `eval_every` and at the end, reports progress, and stops with a checkpoint when asked.

    Args:
        trainer: Which makes the steps.
        eval_every: Steps between evaluations.
    """

    def __init__(self, trainer: ObjectiveTrainer, eval_every: int) -> None:
        self._trainer, self._hooks, self._eval_every = trainer, trainer.task.hooks, eval_every

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Reports where the run starts; a checkpoint of another run must not say when to log and to save."""
        state.compute_steps(args, state.max_steps)
        self._hooks.progress(state.global_step, state.max_steps)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Decides what follows this step."""
        done = state.global_step >= state.max_steps
        control.should_log = control.should_log or done
        control.should_evaluate = state.global_step % self._eval_every == 0 or done
        if self._trainer.processes.any(self._hooks.stop_requested()) and not done:
            control.should_save = True
            control.should_training_stop = True
        if control.should_log or control.should_evaluate or control.should_save:
            self._trainer.require_finite_step()

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Lets no callback after this one see a checkpoint half written."""
        self._trainer.finish_saving()

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Prints one line and passes the progress on."""
        log.info("%s", log_line(state.global_step, kwargs["logs"]))
        self._hooks.progress(state.global_step, state.max_steps)


class ProgressBar(TrainerCallback):
    """A progress bar, for people only: nothing is shown where the output is no terminal."""

    _bar: tqdm[Any]  # from `on_train_begin` on

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Shows the bar."""
        visible = sys.stderr.isatty() and state.is_world_process_zero
        self._bar = tqdm(total=state.max_steps, initial=state.global_step, unit="step", disable=not visible)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Moves the bar."""
        self._bar.update(state.global_step - self._bar.n)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Closes the bar."""
        self._bar.close()
