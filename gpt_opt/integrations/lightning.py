"""For the Trainer of Lightning: `Trainer(..., callbacks=[GptOptCallback()])`, of `lightning` or `pytorch_lightning`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
    from lightning.pytorch.loggers.logger import Logger
except ImportError:
    from pytorch_lightning import Callback, LightningModule, Trainer
    from pytorch_lightning.loggers.logger import Logger

from gpt_opt.records.step_log import own_names
from gpt_opt.reporting import STOP_EXIT_CODE, STOP_FILE, checkpoint_dir, report, should_stop


class GptOptCallback(Callback):  # type: ignore[misc]
    """Reports what the Trainer logs, and ends a run that is to stop with a checkpoint.

    Rows, names and steps are those that loggers get. The checkpoint goes where those of the ModelCheckpoint go, or into
    `gpt_opt.checkpoint_dir()`. After it the program ends with exit code `STOP_EXIT_CODE`: what follows the training,
    such as a test, is for a training that came to its end. Outside a sweep nothing is done.
    """

    _is_stopping = False

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Joins the loggers, after the ModelCheckpoint has looked for its folder at the first of them."""
        should_stop()  # takes SIGTERM, which would end the process before a step does
        _join(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Takes note of how long the training is, where that is known."""
        total = trainer.estimated_stepping_batches
        _join(trainer).total_steps = int(total) if 0 <= total < float("inf") else None

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Joins the loggers of a test without a training."""
        _join(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Saves a checkpoint where the run is to stop."""
        if STOP_FILE in os.environ and trainer.strategy.reduce_boolean_decision(should_stop(), all=False):
            folder = getattr(trainer.checkpoint_callback, "dirpath", None) or checkpoint_dir()
            trainer.save_checkpoint(Path(folder, f"stopped-step={trainer.global_step}.ckpt"))
            self._is_stopping = True

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Ends the program after that checkpoint, when the metrics of its step have been logged.

        Raises:
            SystemExit: With `STOP_EXIT_CODE`.
        """
        self._leave()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ends the program likewise: for an evaluation there may be no time.

        Raises:
            SystemExit: With `STOP_EXIT_CODE`.
        """
        self._leave()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Gives the exit code to the exception by which Lightning itself ends after SIGTERM, as if all were done."""
        if self._is_stopping and isinstance(exception, SystemExit):
            exception.code = STOP_EXIT_CODE

    def _leave(self) -> None:
        if self._is_stopping:
            raise SystemExit(STOP_EXIT_CODE)


def _join(trainer: Trainer) -> _Report:
    """Returns our logger among those of a trainer, where it is from now on."""
    for logger in trainer.loggers:
        if isinstance(logger, _Report):
            return logger
    own = _Report()
    trainer.loggers = [*trainer.loggers, own]
    return own


class _Report(Logger):  # type: ignore[misc]
    """A logger that reports to gpt-opt.

    Attributes:
        total_steps: Optimizer steps of the whole training; None where it is not known.
    """

    total_steps: int | None = None

    @property
    def name(self) -> str:
        return "gpt_opt"

    @property
    def version(self) -> str:
        return ""

    def log_metrics(self, metrics: Mapping[str, float], step: float | None = None) -> None:
        """Reports a row; its step is a float where the module logs a metric of that name."""
        report(None if step is None else int(step), total_steps=self.total_steps, **own_names(metrics))

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Leaves them out: the run has its config."""
