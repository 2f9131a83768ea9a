"""The callback in a real Trainer of Lightning, and its CSV logs."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("lightning", reason="a development tool")

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader

from gpt_opt import reporting
from gpt_opt.app.keys import SOURCES
from gpt_opt.app.metrics import Follower
from gpt_opt.app.settings import MetricsSource
from gpt_opt.integrations.lightning import GptOptCallback
from gpt_opt.reporting import RUN_DIR, STOP_EXIT_CODE, STOP_FILE
from tests.integrations.conftest import Run


class Model(LightningModule):
    """A line."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch: torch.Tensor, index: int) -> torch.Tensor:
        loss = (self.layer(batch) - batch).square().mean()
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch: torch.Tensor, index: int) -> None:
        self.log("val/loss", (self.layer(batch) - batch).square().mean())

    def test_step(self, batch: torch.Tensor, index: int) -> None:
        self.log("test/loss", self.layer(batch).mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class StopAt(Callback):
    """What a scheduler does: it asks for the end in mid-training, by a file or by a signal."""

    def __init__(self, step: int, ask: Callable[[], object]) -> None:
        self.step, self.ask = step, ask

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == self.step:
            self.ask()


def trainer(folder: Path, *callbacks: Callback, logger: Any = False) -> Trainer:
    checkpoint = ModelCheckpoint(every_n_epochs=1, save_top_k=-1)
    return Trainer(
        default_root_dir=folder,
        max_epochs=2,
        log_every_n_steps=1,
        accelerator="cpu",
        logger=logger,
        callbacks=[GptOptCallback(), checkpoint, *callbacks],
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def data() -> DataLoader[torch.Tensor]:
    return DataLoader(list(torch.linspace(0, 1, 6)[:, None]), batch_size=2)


def test_what_loggers_get_is_reported_and_csv_logs_have_the_same(run: Run) -> None:
    torch.manual_seed(0)
    works = trainer(run.root, logger=CSVLogger(run.root))
    follower, found = Follower(run.root, MetricsSource("csv", SOURCES["csv"])), []
    model = Model()
    works.fit(model, data(), data())
    found += follower.new_rows()
    works.test(model, data(), verbose=False)
    found += follower.new_rows()  # the file has a new header with the metric of the test
    assert run.steps_of("train/loss") == [0, 1, 2, 3, 4, 5]
    assert run.steps_of("val/loss") == [2, 5]
    assert {row["total_steps"] for row in run.rows} == {6}
    assert run.steps_of("test/loss") == [6]
    reported = {(row["step"], name, value) for row in run.rows for name, value in row.items() if "/" in name}
    assert {(r["step"], n, v) for r in found for n, v in r["values"].items() if "/" in n} == reported
    names = [item.name for item in (run.root / "lightning_logs").rglob("*.ckpt")]
    assert sorted(names) == ["epoch=0-step=3.ckpt", "epoch=1-step=6.ckpt"]


class ByEpoch(Model):
    """Logs a metric `step`, by which Lightning's loggers are told another step, and others that a row has itself."""

    def training_step(self, batch: torch.Tensor, index: int) -> torch.Tensor:
        self.log_dict({"step": float(index), "time": 2.0})
        return super().training_step(batch, index)

    def validation_step(self, batch: torch.Tensor, index: int) -> None:
        super().validation_step(batch, index)
        self.log("step", float(self.current_epoch))


def test_metrics_with_names_of_a_row_are_reported_by_others(run: Run) -> None:
    trainer(run.root).fit(ByEpoch(), data(), data())
    assert run.steps_of("val/loss") == [0, 1]
    assert run.steps_of("logged_time") == [0, 1, 2, 0, 1, 2]


@pytest.mark.parametrize("way", ["file", "signal"])
def test_a_trainer_that_is_to_stop_saves_and_goes_on(run: Run, way: str) -> None:
    torch.manual_seed(0)
    ways = {"file": run.stop_file.touch, "signal": lambda: os.kill(os.getpid(), signal.SIGTERM)}
    with pytest.raises(SystemExit) as stop:
        trainer(run.root, StopAt(4, ways[way])).fit(Model(), data())
    assert stop.value.code == STOP_EXIT_CODE
    assert run.steps_of("train/loss") == [0, 1, 2, 3, 4]
    newest = max((run.root / "checkpoints").glob("*.ckpt"), key=lambda file: file.stat().st_mtime_ns)
    assert newest.name == "stopped-step=5.ckpt"
    run.stop_file.unlink(missing_ok=True)
    reporting._terminated.clear()  # a further attempt is another process
    works = trainer(run.root)
    works.fit(Model(), data(), ckpt_path=str(newest))
    assert works.global_step == 6
    assert run.steps_of("train/loss") == [0, 1, 2, 3, 4, 5]


def test_outside_a_sweep_the_callback_does_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (RUN_DIR, STOP_FILE):
        monkeypatch.delenv(name, raising=False)
    works = trainer(tmp_path)
    works.fit(Model(), data())
    assert works.global_step == 6
    assert not list(tmp_path.rglob("metrics.jsonl"))
