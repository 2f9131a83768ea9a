"""Writes the numbers that test_training.py replays: `python -m tests.training.make_replay`, after a wanted change."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

CASES = {
    "dpo": ["loss.beta=0.1"],
    "cdpo": ["loss.beta=0.1", "loss.label_smoothing=0.1"],
    "dpo_reference_free": ["loss.beta=0.1", "loss.reference_free=true"],
    "dpo_rmsprop": ["loss.beta=0.1", "optimizer=rmsprop"],
    "robust": ["loss=robust", "loss.beta=0.1", "loss.label_smoothing=0.1"],
    "hinge": ["loss=hinge", "loss.beta=0.1"],
    "ipo": ["loss=ipo", "loss.beta=0.1"],
    "ipo_sum": ["loss=ipo_sum", "loss.beta=0.1"],
    "kto": ["loss=kto", "loss.beta=0.1", "loss.undesirable_weight=1.2"],
    "kto_pair": ["loss=kto_pair", "loss.beta=0.1"],
    "orpo": ["loss=orpo", "loss.beta=0.1"],
    "orpo_alone": ["loss=orpo", "loss.beta=0.1", "loss.sft_term=false"],
    "sft": ["loss=sft"],
    "sft_sequence_sum": ["loss=sft", "loss.reduction=sequence_sum"],
    "sft_sequence_mean": ["loss=sft", "loss.reduction=sequence_mean"],
}
RATE = "optimizer.optimizer_params.lr=5e-4"  # given, so that an edited default moves no stored number


def main() -> None:
    """Trains every case for 50 steps and writes replay.json."""
    target = Path(__file__).parent / "replay.json"
    if not target.exists():
        target.write_text("{}")
    from tests import conftest
    from tests.training.test_training import finish, folder, rows

    stored: dict[str, Any] = {}
    for name, case in CASES.items():
        overrides = [*case, RATE]
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch)
            small = conftest.small_overrides(path)
            steps = ["training.training_params.max_steps=50", "training.training_params.log_every=10"]
            place = folder(path / "run")
            finish([*small, *overrides, *steps, "training.training_params.eval_every=50"], place)
            found = rows(place)
        losses = [round(row["loss"], 6) for row in found if "loss" in row]
        stored[name] = {"overrides": overrides, "loss": losses, "eval/loss": round(found[-1]["eval/loss"], 6)}
    target.write_text(json.dumps(stored, indent=1) + "\n")


if __name__ == "__main__":
    main()
