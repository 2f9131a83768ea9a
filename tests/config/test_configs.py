"""Every YAML file: composed, complete, commented."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from gpt_opt.config.constraints import SCHEDULES, constraint_problems
from gpt_opt.config.schema import register
from gpt_opt.run.directory import plain_config, register_resolvers
from tests.conftest import CONFIG_DIR

register()
register_resolvers()

OPTIONS = sorted(
    (str(file.parent.relative_to(CONFIG_DIR)), file.stem)
    for file in CONFIG_DIR.rglob("*.yaml")
    if file.parent != CONFIG_DIR and "hydra" not in file.relative_to(CONFIG_DIR).parts
)
MANDATORY = {
    ("model", "hf"): ["model.name_or_path=gpt2"],
    ("data", "jsonl"): [f"data.dataset.path={__file__}"],
    ("paths", "local_run_dir"): ["exp_name=x"],
}


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_composes_to_a_config_without_problems(group: str, option: str) -> None:
    overrides = [f"{group}={option}", *MANDATORY.get((group, option), [])]
    if (group, option) != ("loss", "sft"):
        overrides.append("loss.beta=0.1")
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        config = compose("config", overrides=overrides)
    assert constraint_problems(plain_config(config)) == []


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


def test_the_names_of_the_schedules_are_those_that_exist() -> None:
    from gpt_opt.training.optimizers.schedules import SCHEDULES as FORMULAS

    assert tuple(FORMULAS) == SCHEDULES
