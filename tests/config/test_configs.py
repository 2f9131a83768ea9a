"""Every YAML file: composed, complete, commented."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir

from gpt_opt.config.checks.constraints import constraint_problems
from gpt_opt.config.schema import register
from gpt_opt.run.resolvers import plain_config, register_resolvers
from gpt_opt.training.data.shards import write_shard
from tests.conftest import CONFIG_DIR, ROOT
from tests.helpers.configs import by_hydra

register()
register_resolvers()

OPTIONS = sorted(
    (str(file.parent.relative_to(CONFIG_DIR)), file.stem)
    for file in CONFIG_DIR.rglob("*.yaml")
    if file.parent != CONFIG_DIR and not {"hydra", "exp", "deepspeed"} & set(file.relative_to(CONFIG_DIR).parts)
)
"""Not those of exp and deepspeed, which have tests of their own: test_exp.py, tests/run/test_sharding.py."""
ADDED = {"logging"}  # groups without an option by default
NO_CLIPPING = "training.training_params.max_grad_norm=0"
MANDATORY = {
    ("model", "hf"): ["model.name_or_path=gpt2"],
    ("model", "blank"): ["model.name=mine", "model.name_or_path=gpt2"],
    ("data", "jsonl"): [f"data.dataset.path={ROOT / 'params'}"],
    ("data", "hf"): ["data.dataset.path=trl-lib/kto-mix-14k"],
    ("data", "mixture"): ["+data@data.dataset.parts.a=pydoc", "+data.dataset.weights={a: 1}"],
    ("paths", "local_run_dir"): ["exp_name=x"],
    **{("optimizer", name): [NO_CLIPPING] for name in ("momo", "momo-star", "momo-adam", "momo-adam-star")},
    **{
        ("optimizer", name): [NO_CLIPPING, "optimizer.optimizer_params.fstar=0"]
        for name in ("muon-momo", "muonmax-momo")
    },
}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Token shards that hold the largest step of the options."""
    folder = tmp_path_factory.mktemp("shards")
    for split in ("train", "val"):
        write_shard(folder / f"{split}_000000.bin", np.zeros(524_289, dtype="<u2"))
    return folder


def pretraining(group: str, option: str, shards: Path) -> list[str]:
    """Returns what an option of pretraining needs beside it; nothing for others."""
    texts = {file.stem for file in (CONFIG_DIR / "training").glob("*.yaml")} - {"default"}
    if (group, option) == ("loss", "lm") or (group in ("data", "training") and option == "pydoc_text"):
        return ["training=pydoc_text"]
    if group not in ("data", "training") or option not in texts:
        return []
    there = [f"data.dataset.path={shards}"]
    return ["training=shards", *there] if group == "data" else [*there, "model=blank", *MANDATORY["model", "blank"]]


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_composes_to_a_config_without_problems(
    group: str, option: str, monkeypatch: pytest.MonkeyPatch, shards: Path
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "file:/tracks")
    sign = "+" if group in ADDED else ""
    overrides = [f"{sign}{group}={option}", *MANDATORY.get((group, option), [])]
    if own := pretraining(group, option, shards):
        overrides = [*own, *overrides] if group != "training" else [*overrides, *own]
    elif (group, option) != ("loss", "sft"):
        overrides.append("loss.beta=0.1")
    assert constraint_problems(by_hydra(overrides)) == []


def test_there_are_options() -> None:
    assert len(OPTIONS) >= 12


@pytest.mark.parametrize("file", sorted(CONFIG_DIR.rglob("*.yaml")), ids=lambda file: str(file.relative_to(CONFIG_DIR)))
def test_every_key_has_a_comment(file: Path) -> None:
    if "hydra" in file.relative_to(CONFIG_DIR).parts:
        pytest.skip("Hydra's own keys")
    text = file.read_text()
    assert text.startswith("#"), "the file says what it is for"
    own = re.split(r"^hydra:", text, flags=re.M)[0].partition("_self_")[2] or text
    bare = [line for line in own.splitlines() if re.match(r"\s*\w+: *[^#\s]", line) and " # " not in line]
    assert bare == []


def test_a_mixture_is_written_as_its_file_says(tmp_path: Path) -> None:
    """The comment of mixture.yaml, composed: the command line and the file give the same."""
    comment = (CONFIG_DIR / "data" / "mixture.yaml").read_text().split("\ndefaults:")[0]
    lines = [line.removeprefix("#") for line in comment.splitlines()]
    start = next(index for index, line in enumerate(lines) if line.strip() == "defaults:")
    body = "\n".join(line.removeprefix("   ") for line in lines[start:])
    (tmp_path / "exp").mkdir()
    (tmp_path / "exp" / "mine.yaml").write_text(f"# @package _global_\n{body}\n")
    command = shlex.split(next(line for line in lines if "data=mixture" in line))
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        found = [
            plain_config(compose("config", overrides=[*overrides, "loss.beta=0.1"]))["data"]
            for overrides in (command, ["+exp=mine", f"hydra.searchpath=[file://{tmp_path}]"])
        ]
    assert found[0] == found[1]
    assert found[0]["dataset"]["weights"] == {"hh": 0.7, "shp": 0.3}
    assert found[0]["dataset"]["parts"]["hh"]["dataset"]["path"] == "Anthropic/hh-rlhf"
