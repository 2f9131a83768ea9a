"""The callback in a real Trainer over a tiny model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments

from gpt_opt.app.keys import SOURCES
from gpt_opt.app.metrics import rows_of
from gpt_opt.app.settings import MetricsSource
from gpt_opt.integrations.transformers import GptOptCallback
from gpt_opt.reporting import RUN_DIR, STOP_EXIT_CODE, STOP_FILE
from tests.integrations.conftest import Run

ITEMS = [{"input_ids": torch.arange(start, start + 4), "labels": torch.arange(start, start + 4)} for start in range(8)]


class StopAt(TrainerCallback):
    """What a scheduler does: it asks for the end in mid-training."""

    def __init__(self, run: Run, step: int) -> None:
        self.run, self.step = run, step

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.step:
            self.run.stop_file.touch()


def trainer(folder: Path, *callbacks: TrainerCallback) -> Trainer:
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=16, n_positions=8, n_embd=8, n_layer=1, n_head=1))
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=4,
        per_device_train_batch_size=2,
        logging_steps=1,
        eval_strategy="steps",
        eval_steps=2,
        save_steps=4,
        report_to=["tensorboard"],
        use_cpu=True,
        disable_tqdm=True,
    )
    callbacks = [GptOptCallback(), *callbacks]
    return Trainer(model, arguments, train_dataset=ITEMS, eval_dataset=ITEMS[:2], callbacks=callbacks)


def test_what_the_trainer_logs_is_reported_and_so_are_its_own_records(run: Run) -> None:
    trainer(run.root / "out").train()
    assert run.steps_of("loss") == [1, 2, 3, 4]
    assert run.steps_of("eval/loss") == [2, 4]
    assert {row["total_steps"] for row in run.rows} == {4}
    reported = {(row["step"], name): row[name] for row in run.rows for name in ("loss", "eval/loss") if name in row}
    for source, prefix in (("trainer_state", ""), ("tensorboard", "train/")):
        rows = rows_of(run.root, MetricsSource(source, SOURCES[source]))
        names = {f"{prefix}loss": "loss", "eval/loss": "eval/loss"}
        found = {(r["step"], names[n]): v for r in rows for n, v in r["values"].items() if n in names}
        assert found == pytest.approx(reported, abs=1e-4), source


def test_a_trainer_that_is_to_stop_saves_and_goes_on(run: Run) -> None:
    folder = run.root / "out"
    with pytest.raises(SystemExit) as stop:
        trainer(folder, StopAt(run, 1)).train()
    assert stop.value.code == STOP_EXIT_CODE
    assert [item.name for item in folder.glob("checkpoint-*")] == ["checkpoint-2"]
    assert run.steps_of("loss") == [1, 2]
    run.stop_file.unlink()
    trainer(folder).train(resume_from_checkpoint=True)
    assert run.steps_of("loss") == [1, 2, 3, 4]


def test_outside_a_sweep_the_callback_does_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (RUN_DIR, STOP_FILE):
        monkeypatch.delenv(name, raising=False)
    result = trainer(tmp_path / "out").train()
    assert result.global_step == 4
    assert not list(tmp_path.rglob("metrics.jsonl"))
