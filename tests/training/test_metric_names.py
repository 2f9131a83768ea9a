"""What trainings write, and what the registry of metrics says of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gpt_opt.config.checks.losses import metrics_of
from gpt_opt.records.metrics import EVALUATION, METRICS
from gpt_opt.records.step_log import NOT_METRICS, read_metrics
from tests.training.test_training import config, finish, folder

LOSSES = {
    "dpo": ["loss=dpo", "loss.beta=0.1"],
    "dpo_with_kl": ["loss=dpo", "loss.beta=0.1", "loss.precompute_ref_log_probs=false"],
    "kto": ["loss=kto", "loss.beta=0.1"],
    "orpo": ["loss=orpo", "loss.beta=0.1"],
    "sft": ["loss=sft"],
    "lm": [
        "training=pydoc_text",
        "model.archive=null",
        *(
            f"training.training_params.{key}=64"
            for key in ("context_length", "tokens_processed", "val_tokens_processed")
        ),
    ],
}


@pytest.mark.parametrize("loss", LOSSES)
def test_every_metric_of_a_training_is_in_the_registry_on_its_side(loss: str, tmp_path: Path, small: list[str]) -> None:
    place = folder(tmp_path / "run")
    base = small if loss != "lm" else [text for text in small if text.startswith("model.config.")]
    overrides = [*base, *LOSSES[loss], "training.training_params.max_steps=2"]
    result = finish(overrides, place)
    written = {name for row in read_metrics(place.metrics).records for name in row} - NOT_METRICS
    assert written >= {"loss", "eval/loss", "learning_rate"}
    for name in written | result.metrics.keys():
        info = METRICS[name.removeprefix(EVALUATION)]
        assert info.in_evaluation if name.startswith(EVALUATION) else info.in_training, name
    known = metrics_of(config(overrides))
    assert known.complete
    assert written | result.metrics.keys() == known.names
    assert len(place.metrics.read_text().splitlines()) == len([*map(json.loads, place.metrics.open())])
