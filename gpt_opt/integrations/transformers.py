"""For the Trainer of transformers: `Trainer(..., callbacks=[GptOptCallback()])`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from gpt_opt.app.sources.trainer_state import metric_name
from gpt_opt.records.io import number
from gpt_opt.records.step_log import own_names
from gpt_opt.reporting import STOP_EXIT_CODE, STOP_FILE, report, should_stop


class GptOptCallback(TrainerCallback):
    """Reports what the Trainer logs, `eval_loss` as `eval/loss`, and ends a run that is to stop with a checkpoint.

    After the checkpoint the program ends with exit code `STOP_EXIT_CODE`: what follows the training, such as writing
    the final model, is for a training that came to its end. Outside a sweep nothing is done.
    """

    _is_stopping = False

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Takes SIGTERM, which would end the process before a step does."""
        should_stop()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Reports a row of the Trainer's log."""
        if state.is_world_process_zero:
            numbers = {metric_name(name): number(value) for name, value in (logs or {}).items()}
            values = {name: value for name, value in numbers.items() if value is not None}
            report(state.global_step, total_steps=state.max_steps, **own_names(values))

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        """Asks for a checkpoint where the run is to stop."""
        if _is_to_stop(args):
            self._is_stopping = control.should_save = True
            control.should_evaluate = False
        return control

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Ends the program after that checkpoint.

        Raises:
            SystemExit: With `STOP_EXIT_CODE`.
        """
        if self._is_stopping:
            if args.world_size > 1:
                torch.distributed.barrier()  # the first process to leave makes torchrun end the one that saves
            raise SystemExit(STOP_EXIT_CODE)


def _is_to_stop(args: TrainingArguments) -> bool:
    """Returns whether the run is to stop, on all of its processes the same."""
    if STOP_FILE not in os.environ or args.world_size == 1:
        return should_stop()
    stops = torch.tensor(should_stop(), dtype=torch.int32, device=args.device)
    torch.distributed.all_reduce(stops, torch.distributed.ReduceOp.MAX)
    return bool(stops.item())
