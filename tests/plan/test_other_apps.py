"""Plans of applications that were not written for gpt-opt, in processes of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from gpt_opt.app.settings import read_settings
from gpt_opt.app.toml_app import app_of
from gpt_opt.errors import ConfigError
from gpt_opt.plan.compose.composer import Composer
from gpt_opt.plan.compose.hydra import Configs
from gpt_opt.plan.compose.resolvers import leave_as_text, recorded_resolvers
from gpt_opt.plan.existing import Status
from gpt_opt.plan.planner import Plan
from gpt_opt.plan.planner_of import planner_of
from gpt_opt.records.planned_configs import planned_config, text_of
from gpt_opt.records.run_id import Identity
from gpt_opt.run.signals import handled
from tests.helpers.apps import copied
from tests.plan.compose_reference import assert_like_hydra


def described(folder: Path, text: str) -> Path:
    (folder / "gptopt.toml").write_text(text)
    return folder


def plan(folder: Path, grid: dict[str, Any], *overrides: str) -> Plan:
    (folder / "grid.json").write_text(json.dumps({"grid": grid}))
    planner = planner_of(app_of(read_settings(folder / "gptopt.toml")))
    return planner.plan(folder / "grid.json", overrides, sweeps=folder / "sweeps")


def configs(plan: Plan, folder: Path) -> list[dict[str, Any]]:
    """Returns what was planned for each run, with its keys that identify it and those below the others that do not."""
    file = folder / "planned.jsonl"
    file.write_text(text_of((run.run_id, changes) for run, changes in zip(plan.runs, plan.configs, strict=True)))
    found = [planned_config(file, run.run_id, Identity(frozenset())) for run in plan.runs]
    return [config for config in found if config is not None]


def by_hydra(folder: Path, script: str, *overrides: str) -> dict[str, Any]:
    """Returns the config that Hydra itself gives the application."""
    command = [sys.executable, script, *overrides, "--cfg", "job", "--resolve"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    found = yaml.safe_load(done.stdout)
    assert isinstance(found, dict)
    return found


PLAIN = '[app]\nscript = "train.py"\nconfig_path = "conf"\n[run]\ndir = "outputs/{app}/{model.start}/{label}-{id}"\n'


def test_a_plain_application(tmp_path: Path) -> None:
    folder = described(copied("plain", tmp_path), PLAIN)
    found = plan(folder, {"lr": [0.1, 0.2, 0.10], "model": ["near", "far"]})
    assert (found.points, len(found.runs), found.count(Status.NEW)) == (6, 4, 4)
    assert all(Path(run.run_dir).name.endswith(f"-{run.run_id}") for run in found.runs)
    assert found.runs[0].run_dir.startswith(f"{folder}/outputs/train/")
    first = configs(found, tmp_path)[0]
    assert first["output_dir"] == "<hydra:runtime.output_dir>"  # which follows from the id, and not the id from it
    assert found.notes == tuple(app_of(read_settings(folder / "gptopt.toml")).notes())
    moved = described(copied("plain", tmp_path / "moved"), PLAIN)
    assert [run.run_id for run in plan(moved, {"lr": [0.1]}).runs] == [found.runs[0].run_id]


def test_all_problems_of_all_points_come_in_words(tmp_path: Path) -> None:
    folder = described(copied("plain", tmp_path), PLAIN.replace("{model.start}", "{model.begin}"))
    with pytest.raises(ConfigError) as raised:
        plan(folder, {"lrr": [1, 2], "model": ["far", "fer"], "zebra": [1]}, "steps=[")
    text = str(raised.value)
    assert "lrr: is not a key of this config\n      did you mean lr?" in text
    assert "model: must be one of far, near, but is 'fer'" in text
    assert "zebra: is not a key of this config\n      valid here: lr, model, output_dir, pause_s, seed, steps" in text
    assert "steps=[: is not a Hydra override" in text
    with pytest.raises(ConfigError, match=r"must name keys of the config in braces, but there is no model\.begin"):
        plan(folder, {"lr": [1]})


@pytest.mark.parametrize(
    ("name", "script", "toml", "overrides"),
    [
        ("structured", "train.py", 'script = "train.py"\nconfig_path = "conf"', ("width=7", "optimizer.lr=0.25")),
        (
            "lightning_like",
            "src/train.py",
            'script = "src/train.py"\nconfig_path = "configs"\nconfig_name = "train"',
            ("logger=csv", "model.lr=0.5"),
        ),
    ],
)
def test_what_an_application_registers_is_honoured(
    name: str, script: str, toml: str, overrides: tuple[str, ...], tmp_path: Path
) -> None:
    head = f'[app]\n{toml}\nregisters = true\nversion_base = "1.3"\n[identity]\nexclude = []\n'
    folder = described(copied(name, tmp_path), head)
    found = plan(folder, {"+user_key": [1, 2]}, *overrides)
    planned, given = configs(found, tmp_path)[1], by_hydra(folder, script, *overrides, "+user_key=2")
    # Without a run, Hydra knows no directory of one.
    text = json.dumps(planned).replace('"<hydra:runtime.output_dir>"', "null")
    assert json.loads(text.replace("<hydra:runtime.output_dir>", "None")) == json.loads(json.dumps(given))
    assert "PROJECT_ROOT" not in os.environ  # nothing of it reaches this process
    assert not OmegaConf.has_resolver("twice")


REGISTERING = """
import os, random, sys
import hydra
from omegaconf import OmegaConf

print("whatever it prints is no answer")

@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(cfg):
    raise SystemExit("it must not be started")

def folder(name):
    os.makedirs(f"made-{name}")
    return name

if __name__ == "__main__":
    OmegaConf.register_new_resolver("product", lambda a, b: a * b, use_cache=True)
    OmegaConf.register_new_resolver("folder", folder)
    main()
    sys.exit(0)
"""


def test_resolvers_of_main_are_called_but_not_for_what_identifies_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "config.yaml").write_text(
        "lr: 1\nsteps: ${product:${lr},3}\nwhen: ${now:%Y}\npaths:\n  out: ${folder:${lr}}\n  copy: ${paths.out}\n"
    )
    (tmp_path / "train.py").write_text(REGISTERING)
    text = '[app]\nscript = "train.py"\nconfig_path = "conf"\nregisters = true\n[identity]\nexclude = ["paths"]\n'
    found = plan(described(tmp_path, text), {"lr": [1, 2, 5]})
    assert [config["steps"] for config in configs(found, tmp_path)] == [3, 6, 15]
    assert {config["when"] for config in configs(found, tmp_path)} == {"<now>"}
    assert not list(tmp_path.glob("made-*"))


def test_an_application_that_composes_as_it_is_imported_is_planned_without_the_time(tmp_path: Path) -> None:
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "config.yaml").write_text("lr: 1\nwhen: ${now:%f}\njob: ${hydra:job.name}\n")
    lines = "import hydra\nwith hydra.initialize('conf', version_base='1.3'):\n    hydra.compose('config')\n"
    (tmp_path / "train.py").write_text(lines)
    text = '[app]\nscript = "train.py"\nconfig_path = "conf"\nregisters = true\n[identity]\nexclude = []\n'
    found = configs(plan(described(tmp_path, text), {"lr": [1, 2]}), tmp_path)
    assert found == [{"lr": lr, "when": "<now>", "job": "train"} for lr in (1, 2)]


@pytest.mark.parametrize("imported", ["from hydra.main import main as start", "from hydra import main as start"])
def test_whatever_name_the_function_of_hydra_has_planning_starts_nothing(imported: str, tmp_path: Path) -> None:
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "config.yaml").write_text("lr: 1\n")
    call = '@start(version_base="1.3", config_path="conf", config_name="config")'
    (tmp_path / "train.py").write_text(
        f"{imported}\n{call}\ndef run(cfg):\n    open({str(tmp_path / 'started')!r}, 'w')\nrun()\n"
    )
    text = '[app]\nscript = "train.py"\nconfig_path = "conf"\nregisters = true\n'
    assert len(plan(described(tmp_path, text), {"lr": [1, 2]}).runs) == 2
    assert not (tmp_path / "started").exists()


def test_ctrl_c_is_for_the_process_that_asked_not_for_the_one_that_plans(tmp_path: Path) -> None:
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "config.yaml").write_text("lr: 1\n")
    (tmp_path / "train.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    text = '[app]\nscript = "train.py"\nconfig_path = "conf"\nregisters = true\n'
    with handled([signal.SIGINT], signal.default_int_handler):
        assert len(plan(described(tmp_path, text), {"lr": [1, 2]}).runs) == 2


def test_a_config_of_a_class_that_no_module_has_is_planned(tmp_path: Path) -> None:
    """As hydra-zen makes them."""
    (tmp_path / "train.py").write_text(
        "import hydra\nfrom dataclasses import make_dataclass\nfrom hydra.core.config_store import ConfigStore\n"
        'ConfigStore.instance().store("config", make_dataclass("Config", [("lr", float, 0.1)]))\n'
        '@hydra.main(version_base="1.3", config_path=None, config_name="config")\ndef run(cfg):\n    pass\nrun()\n'
    )
    text = '[app]\nscript = "train.py"\nconfig_name = "config"\nregisters = true\n'
    found = plan(described(tmp_path, text), {"lr": [0.1, 0.2]})
    assert [config["lr"] for config in configs(found, tmp_path)] == [0.1, 0.2]


POSTPONED = """
from __future__ import annotations

from dataclasses import dataclass, field
from typing import Dict, List, Optional

import hydra
from hydra.core.config_store import ConfigStore

@dataclass
class Layer:
    width: int = 8
    tags: Optional[List[str]] = None

@dataclass
class Config:
    layers: Dict[str, Layer] = field(default_factory=dict)
    head: Optional[Layer] = None

ConfigStore.instance().store(name="typed", node=Config)

@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(cfg):
    raise SystemExit("it must not be started")

if __name__ == "__main__":
    main()
"""


@pytest.mark.parametrize("program", ['script = "train.py"', 'module = "train"'])
def test_postponed_annotations_of_the_script_are_resolved_where_it_is(tmp_path: Path, program: str) -> None:
    (tmp_path / "conf").mkdir()
    lines = "defaults: [typed, _self_]\nlayers: {a: {width: 4, tags: [x]}}\nhead: {width: 3}\n"
    (tmp_path / "conf" / "config.yaml").write_text(lines)
    (tmp_path / "train.py").write_text(POSTPONED)
    found = plan(
        described(tmp_path, f'[app]\n{program}\nconfig_path = "conf"\nregisters = true\n'), {"head.width": [5]}
    )
    layer = {"width": 4, "tags": ["x"]}
    assert configs(found, tmp_path) == [{"layers": {"a": layer}, "head": {"width": 5, "tags": None}}]


def test_a_resolver_that_never_gives_the_same_is_named(tmp_path: Path) -> None:
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "config.yaml").write_text("lr: 1\nname: ${random_name:}\n")
    register = "OmegaConf.register_new_resolver('random_name', lambda: str(random.random()))"
    (tmp_path / "train.py").write_text(f"import random\nfrom omegaconf import OmegaConf\n{register}\n")
    text = '[app]\nscript = "train.py"\nconfig_path = "conf"\nregisters = true\n[identity]\nexclude = []\n'
    with pytest.raises(ConfigError, match="name: must not be another value each time it is resolved"):
        plan(described(tmp_path, text), {"lr": [1, 2]})
    found = plan(described(tmp_path, text.replace("[]", '["name"]')), {"lr": [1, 2]})
    assert len(found.runs) == 2


def test_an_option_that_a_config_asks_hydra_for_makes_another_run(tmp_path: Path) -> None:
    (tmp_path / "conf" / "data").mkdir(parents=True)
    for option in ("a", "b"):
        (tmp_path / "conf" / "data" / f"{option}.yaml").write_text("batch: 1\n")
    lines = "defaults: [data: a, _self_]\nset: /d/${hydra:runtime.choices.data}\nout: ${hydra:runtime.output_dir}\n"
    (tmp_path / "conf" / "config.yaml").write_text(lines)
    (tmp_path / "train.py").touch()
    found = plan(described(tmp_path, '[app]\nscript = "train.py"\nconfig_path = "conf"\n'), {"data": ["a", "b"]})
    assert [config["set"] for config in configs(found, tmp_path)] == ["/d/a", "/d/b"]
    assert {config["out"] for config in configs(found, tmp_path)} == {"<hydra:runtime.output_dir>"}


@pytest.mark.parametrize(
    ("line", "why"), [("import nothing_of_this_name", "No module named"), ("exit(3)", "SystemExit: 3")]
)
def test_an_application_that_cannot_be_imported_is_named(line: str, why: str, tmp_path: Path) -> None:
    (tmp_path / "conf").mkdir()
    (tmp_path / "train.py").write_text(line)
    described(tmp_path, '[app]\nscript = "train.py"\nconfig_path = "conf"\nregisters = true\n')
    with pytest.raises(ConfigError, match="must be importable, since") as raised:
        plan(tmp_path, {"lr": [1]})
    assert why in str(raised.value)


@pytest.mark.parametrize("head", ["", "defaults: []\n"])
def test_a_command_is_checked_for_every_point(head: str, tmp_path: Path) -> None:
    (tmp_path / "defaults.yaml").write_text(f"{head}data: none\nlr: 0.1\nseed: null\n")
    (tmp_path / "data").mkdir()  # no config group, although a key has its name
    command = "python train.py --data {data} --lr {lr} --seed {seed}"
    described(tmp_path, f'[app]\nname = "c"\ncommand = "{command}"\ndefaults = "defaults.yaml"\n')
    found = plan(tmp_path, {"data": ["a/b", "$(c) d"], "seed": [1]})
    assert [config["data"] for config in configs(found, tmp_path)] == ["a/b", "$(c) d"]
    with pytest.raises(ConfigError, match="seed: must have a value, as the command takes it"):
        plan(tmp_path, {"lr": [1]})


# -- in this process --------------------------------------------------------------------------------------------------


def test_points_that_call_resolvers_of_an_application_are_not_composed_one_by_one(tmp_path: Path) -> None:
    with recorded_resolvers() as names:
        OmegaConf.register_new_resolver("twice_of_test", lambda value: 2 * value, use_cache=True, replace=True)
        OmegaConf.register_new_resolver("context_of_test", lambda x, _root_: _root_.a, replace=True)
        OmegaConf.register_new_resolver("int_of_test", int, replace=True)
    assert names == {"twice_of_test", "int_of_test"}
    with recorded_resolvers() as none:
        pass
    assert not none
    for lines, first, is_fast in (
        ("b: ${twice_of_test:${a}}", (), True),
        ("b: ${int_of_test:${a}}", (), True),
        ("b: ${context_of_test:x}", (), False),
        # Hydra gives c.b what it has cached for the same text
        ("b: ${twice_of_test:${.a}}\nc: {a: 7, b: '${twice_of_test:${.a}}'}", (), False),
        ("b: ${twice_of_test:${a}}\nc: ${twice_of_test:${a}}", ("~b=2",), False),
    ):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        (folder / "config.yaml").write_text(f"a: 1\n{lines}\n")
        composer = Composer(Configs(folder, is_stored=False), pure_resolvers=names)
        assert_like_hydra(composer, [[*first, f"a={value}"] for value in range(5)], folder)
        assert (composer.fast > 3, sum(composer.slow.values()) > 3) == (is_fast, not is_fast)


def test_only_calls_of_others_resolvers_are_left_as_text() -> None:
    config = OmegaConf.create(
        {"a": 1, "out": {"x": "${mine:${a}}", "y": "${a}", "z": ["${oc.env:HOME}", "${mine.nested:}"], "n": None}}
    )
    leave_as_text(config, "out")
    leave_as_text(config, "none.at.all")
    assert OmegaConf.to_container(config, resolve=False) == {
        "a": 1,
        "out": {"x": "$(mine:$(a}}", "y": "${a}", "z": ["${oc.env:HOME}", "$(mine.nested:}"], "n": None},
    }
