"""The notebooks: committed without outputs, and run from a clean state over small sweeps."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from gpt_opt.records.choices import record_choice
from gpt_opt.records.run_dir import RunPaths
from gpt_opt.records.sweep_dir import Shape, StageRecord, Submission, Sweep, SweepRun, create
from tests.conftest import ROOT

NOTEBOOKS = sorted((ROOT / "analysis" / "notebooks").glob("*.ipynb"))

LR = "optimizer.optimizer_params.lr"
NAME = "optimizer.optimizer_params.name"


def read(notebook: Path) -> Any:
    return nbformat.read(notebook, as_version=4)  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_committed_notebooks_have_no_outputs(notebook: Path) -> None:
    document = json.loads(notebook.read_text())
    code = [cell for cell in document["cells"] if cell["cell_type"] == "code"]
    assert code
    assert not any(cell["outputs"] or cell["execution_count"] is not None for cell in code)
    assert set(document["metadata"]) == {"kernelspec"}


def submit(
    sweeps: Path,
    name: str,
    runs: Sequence[RunPaths],
    places: Sequence[tuple[str, int, int | None, str]] = (),
    stages: Sequence[StageRecord] = (),
) -> Sweep:
    """Makes the sweep directory of runs, each with stage, number, parent and choice in a sweep with stages."""
    (sweeps / name).mkdir(parents=True)
    planned = [
        SweepRun(index, paths.root.name[-12:], str(paths.root), ("loss=dpo",), 0, *place)
        for index, (paths, place) in enumerate(zip(runs, places or [("", 0, None, "")] * len(runs), strict=True))
    ]
    submission = Submission(name, f"{name}.json", (), "local", (Shape({}, 1),), None, ".", ".", stages=tuple(stages))
    return create(sweeps / name, "{}", planned, submission)


@pytest.fixture
def sweeps(make_run: Callable[..., RunPaths], tmp_path: Path) -> Path:
    """The three sweeps that the notebooks read, without training."""
    folder = tmp_path / "sweeps"

    def preferences(beta: float, seed: int = 0, archive: str | None = None, more: float = 0.0) -> RunPaths:
        gain = beta * 0.1 + seed * 0.001 + more
        final = {"eval/loss": 0.6 - gain, "eval/rewards/accuracies": 0.7 + gain, "eval/kl": 1 / beta}
        return make_run({"loss.beta": beta, "seed": seed, "model.archive": archive}, final=final, scale=beta)

    submit(folder, "beta_sweep", [preferences(beta, seed) for beta in (0.05, 0.1, 0.3) for seed in (0, 1, 2)])
    grid = [(name, lr) for name in ("adamw", "rmsprop") for lr in (1e-4, 1e-3, 1e-2)]
    trained = [
        make_run({NAME: name, LR: lr, "loss.name": "sft"}, final={"eval/loss": 2 + abs(lr - 1e-3)}) for name, lr in grid
    ]
    submit(folder, "optimizers", trained)
    text = {"eval/loss": 2.1, "loss": 2.0}
    first = [make_run({"loss.name": "lm", "model.archive": None}, final=text)]
    pretrained = f"run:{first[0].root.name[-12:]}"
    first += [make_run({"loss.name": "sft", LR: lr, "model.archive": pretrained}, final=text) for lr in (1, 2)]
    places: list[tuple[str, int, int | None, str]] = [("pretrain", 0, None, ""), ("sft", 0, 0, ""), ("sft", 1, 0, "")]
    places += [("dpo", number, 2, "dpo") for number in (0, 1)]
    places += [("dpo_from_scratch", number, None, "") for number in (0, 1)]
    stages = [StageRecord(name) for name in ("pretrain", "sft", "dpo", "dpo_from_scratch")]
    tuned = f"run:{first[2].root.name[-12:]}"
    last = [preferences(beta, 0, archive, more) for archive, more in ((tuned, 0.1), (None, 0)) for beta in (0.1, 0.3)]
    pipeline = submit(folder, "pipeline_pretrain_sft_dpo", [*first, *last], places, stages)
    record_choice(pipeline.choices, "dpo", 2, "eval/loss", 2.1)
    return folder


def test_notebooks_run_from_a_clean_state(sweeps: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPTOPT_SWEEPS", str(sweeps))
    whole = nbformat.v4.new_notebook()  # type: ignore[no-untyped-call]
    for notebook in NOTEBOOKS:  # one kernel imports once; nothing that a notebook names is left to the next
        forget = nbformat.v4.new_code_cell("%reset -f")  # type: ignore[no-untyped-call]
        whole.cells += [*read(notebook).cells, forget]
    client = NotebookClient(
        whole, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(NOTEBOOKS[0].parent)}}
    )
    client.execute()
    outputs = [output for cell in whole.cells for output in cell.get("outputs", ())]
    printed = "".join(output["text"] for output in outputs if output["output_type"] == "stream")
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 3 + 4 + 3
    assert "beta=0.3 has the best eval accuracy, 73.1%" in printed
    assert "stage=dpo, beta=0.3 has the best eval accuracy, 83.0%" in printed
