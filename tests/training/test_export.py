"""`gptopt export`: a folder that from_pretrained opens, with a model card that says how the model was trained."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from gpt_opt.cli import main
from gpt_opt.records.io import to_json, write_text
from gpt_opt.records.run_dir import RunPaths
from gpt_opt.records.state import RunState, State, write_state
from gpt_opt.records.sweep_dir import Shape, Submission, SweepRun, create
from gpt_opt.training.build import build
from tests.training.test_lora import run_with
from tests.training.test_training import DPO, config

CARD = "README.md"


def test_a_whole_model_is_exported_with_its_weights_and_no_training_state(
    tmp_path: Path, small: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "run"
    policy = build(run_with(small, DPO, root)).policy
    assert main(["export", str(root)]) == 0
    assert capsys.readouterr().out.strip() == str(root / "export")
    checkpoint = root / "checkpoints" / "checkpoint-12"
    opened = AutoModelForCausalLM.from_pretrained(root / "export")
    saved = AutoModelForCausalLM.from_pretrained(checkpoint)
    assert all(torch.equal(a, b) for a, b in zip(opened.parameters(), saved.parameters(), strict=True))
    assert type(opened) is type(policy)
    assert AutoTokenizer.from_pretrained(root / "export")("ab")["input_ids"] == [97, 98]
    names = {path.name for path in (root / "export").iterdir()}
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer_config.json", CARD} <= names
    assert not names & {"optimizer.pt", "rng_state.pth", "scheduler.pt", "trainer_state.json", "training_args.bin"}


def test_a_run_is_named_by_its_id_its_sweep_or_its_checkpoint(
    tmp_path: Path, small: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name = "0123456789ab"
    root = tmp_path / "outputs" / "gpt2" / "jsonl" / "adamw" / f"run-{name}"
    root.parent.mkdir(parents=True)
    every = ["training.training_params.save_every=6", "training.training_params.save_total_limit=2"]
    run_with(small, [*DPO, *every], root)
    submission = Submission("mine", "mine.json", (), "local", (Shape({}, 1),), None, str(tmp_path), ".")
    (parent := tmp_path / "sweeps" / "mine").mkdir(parents=True)
    create(parent, "{}", [SweepRun(0, name, str(root), ())], submission)
    for number, words in enumerate(([name], ["mine", "0"], [str(root)], [f"{name}/checkpoint-6"])):
        assert main(["export", *words, "-o", f"out{number}"]) == 0, words
        steps = 6 if number == 3 else 12
        assert f"| optimizer steps | {steps} |" in (tmp_path / f"out{number}" / CARD).read_text()
    capsys.readouterr()
    for words, message in (
        ([f"{name}/checkpoint-7"], "must be a checkpoint that was kept"),
        ([f"{root}/checkpoints/checkpoint-7"], "/checkpoint-7\n      the run has checkpoint-6, checkpoint-12\n"),
        (["mine"], "must be followed by the index of a run"),
        ([name, name], "must be one run, but got 2"),
    ):
        assert main(["export", *words, "--output", "other"]) == 2
        assert message in capsys.readouterr().err


def test_the_card_says_how_the_model_was_trained(tmp_path: Path, small: list[str]) -> None:
    root = tmp_path / "run"
    run_with(small, DPO, root)
    summary = {"step": 12, "tokens": 3456, "time_s": 7.6, "device": "cpu", "metrics": {"eval/loss": 0.25, "loss": 0.5}}
    (root / "summary.json").write_text(json.dumps(summary))
    packages = {"torch": "2.13.0", "absl-py": "1"}
    provenance = {"git_commit": "abc123", "git_dirty": True, "packages": packages, "command": ["/home/me/secret"]}
    (root / "provenance.json").write_text(json.dumps(provenance))
    assert main(["export", str(root)]) == 0
    _, front, text = (root / "export" / CARD).read_text().split("---\n", 2)
    assert yaml.safe_load(front) == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["gpt-opt", "dpo"],
    }
    for row in (
        "| loss: beta | 0.1 |",
        "| optimizer steps | 12 |",
        "| tokens seen by the run | 3456 |",
        "| eval/loss | 0.2500 |",
        "| commit | abc123 with changes |",
        "| packages | torch 2.13.0 |",
        "| training time | 8 s |",
    ):
        assert row in text
    assert "secret" not in text
    assert "| loss |" not in text.partition("## Evaluation")[2], "of an evaluated run the last evaluation stands alone"


def test_a_card_of_an_earlier_checkpoint_has_no_final_metrics(tmp_path: Path, small: list[str]) -> None:
    root = tmp_path / "run"
    run_with(
        small, [*DPO, "training.training_params.save_every=6", "training.training_params.save_total_limit=2"], root
    )
    (root / "summary.json").write_text(json.dumps({"step": 12, "metrics": {"eval/loss": 0.25}}))
    assert main(["export", str(root / "checkpoints" / "checkpoint-6"), "--into", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out" / CARD).read_text()
    assert "| optimizer steps | 6 |" in text
    assert "eval/loss" not in text


def test_a_hub_name_is_the_base_model_and_a_value_breaks_no_table(tmp_path: Path, small: list[str]) -> None:
    from gpt_opt.records.run_dir import RunPaths
    from gpt_opt.training.models.model_card import model_card

    given = config([*small, *DPO])
    given["model"]["name_or_path"] = "openai-community/gpt2"
    given["data"]["dataset"]["name"] = "a|b\n<script>"
    card = model_card(RunPaths(tmp_path), given, 3, is_result=True, is_known=True)
    assert yaml.safe_load(card.split("---\n")[1])["base_model"] == ["openai-community/gpt2"]
    assert "| data | a\\|b \\<script\\> |" in card


@pytest.mark.parametrize("odd", [["torch"], 7, "text", None])
def test_records_of_another_form_are_not_in_a_card(tmp_path: Path, small: list[str], odd: object) -> None:
    from gpt_opt.records.run_dir import RunPaths
    from gpt_opt.training.models.model_card import model_card

    (tmp_path / "provenance.json").write_text(json.dumps({"packages": odd, "git_commit": "abc"}))
    (tmp_path / "summary.json").write_text(json.dumps({"metrics": odd, "time_s": [odd], "device": "cpu"}))
    card = model_card(RunPaths(tmp_path), config([*small, *DPO]), 3, is_result=True, is_known=True)
    assert card.partition("## Made with")[2].splitlines()[2:6] == [
        "| what |  |", "|---|---|", "| commit | abc |", "| device | cpu |",
    ]  # fmt: skip
    assert "## Evaluation" not in card
    assert "training time" not in card


def test_a_model_of_our_own_opens_as_its_card_says(tmp_path: Path, small: list[str]) -> None:
    root = tmp_path / "run"
    run_with(small, [*DPO, "model=gpt-tiny", "loss.use_ref_model=true"], root)
    assert main(["export", str(root)]) == 0
    text = (root / "export" / CARD).read_text()
    code = text.partition("```python\n")[2].partition("```")[0]
    assert "import gpt_opt.training.models" in code
    code = code.replace("FOLDER", str(root / "export")) + "print(type(model).__name__, model.config.vocab_size)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.split()[0] == "GPT"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"loss": {}}', "has no model.name, data.dataset.name, loss.name,"),
        ('{"loss": {"name": "dpo"}, "model": "gpt2", "training": []}', "has no model.name, data.dataset.name, optim"),
        ("[]", "cannot be read"),
        ("{", "cannot be read"),
    ],
)
def test_the_config_of_something_else_is_one_clear_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    (tmp_path / "checkpoints" / "checkpoint-1").mkdir(parents=True)
    (tmp_path / "config.json").write_text(text)
    assert main(["export", str(tmp_path)]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert str(tmp_path / "config.json") in said
    assert message in said


def test_what_cannot_be_exported_is_one_clear_error(
    tmp_path: Path, small: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "run"
    run_with(small, DPO, root)
    assert main(["export", str(tmp_path)]) == 2
    assert "must be the directory of a run" in capsys.readouterr().err
    (root / "export").mkdir()
    (root / "export" / "mine").touch()
    assert main(["export", str(root)]) == 2
    assert "must be a new folder" in capsys.readouterr().err
    assert main(["export", str(root), "-o", f"/proc/{tmp_path.name}"]) == 1
    assert capsys.readouterr().err == f"error: [Errno 2] No such file or directory: '/proc/{tmp_path.name}'\n"
    weights = root / "checkpoints" / "checkpoint-12" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert main(["export", str(root), "--into", str(tmp_path / "out")]) == 1
    assert "must have whole weights" in capsys.readouterr().err
    (root / "checkpoints").rename(tmp_path / "elsewhere")
    assert main(["export", str(root), "--into", str(tmp_path / "out")]) == 1
    assert "must hold a checkpoint, but holds none; the run is PENDING: start it again" in capsys.readouterr().err
    write_text(RunPaths(root).summary, to_json({"run_id": "a", "step": 12, "time_s": 1.0, "metrics": {}}))
    for state, fix in ((State.COMPLETED, "rerun=true"), (State.FAILED, "the run is FAILED: start it again, by gptopt")):
        write_state(RunPaths(root), RunState("a", state))
        assert main(["export", str(root), "--into", str(tmp_path / "out")]) == 1
        assert fix in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
