"""Targets are looked up without importing them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from gpt_opt.config.lookup import look_up, targets
from tests.conftest import ROOT

MINE = """
from json import *
import os
try:
    import numpy as np
except ImportError:
    np = None
class Loss: ...
make = lambda: None
with open(os.devnull) as stream:
    (a, b), [c] = (1, 2), [3]
"""


@pytest.mark.parametrize(
    "target",
    [
        *("mine.Loss", "mine.make", "mine.c", "mine.stream", "mine.np.float64", "mine.loads", "pack.deep.Inner"),
        *("pack.Up", "made.anything", "ring.anything", "gpt_opt.training.losses.DPO", "torch.optim.AdamW"),
        *("torch.nn.Linear", "transformers.GPT2LMHeadModel.from_pretrained", "collections.OrderedDict"),
        *("builtins.dict", "math.sqrt"),
    ],
)
def test_what_is_there_is_found(target: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "made.py").write_text("globals()['anything'] = 1\n")
    (tmp_path / "ring.py").write_text("from ring import *\n")
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "__init__.py").write_text("raise SystemExit('imported')\nfrom .deep import Inner as Up\n")
    (tmp_path / "pack" / "deep.py").write_text("from . import *\nclass Inner: ...\n")
    assert look_up(target, ROOT if target.startswith("gpt_opt") else tmp_path) is None


def test_a_folder_of_data_with_the_name_of_a_module_is_passed_over(tmp_path: Path) -> None:
    for name in ("json/a.txt", "models/a.txt", "src/models/net.py"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("class Net: ...\n")
    (tmp_path / "src" / "models" / "__init__.py").touch()
    assert look_up("json.JSONDecoder", tmp_path) is None
    assert look_up("models.net.Net", tmp_path / "src", tmp_path) is None
    assert look_up("models.net.Net", tmp_path) is not None


@pytest.mark.parametrize(
    ("target", "message", "fix"),
    [
        ("mine.Los", "the module mine has no 'Los'", "did you mean mine.Loss?"),
        ("gpt_opt.training.losses.DPOO", "gpt_opt.training.losses has no 'DPOO'", "gpt_opt.training.losses.DPO?"),
        ("gpt_opt.training.loses.DPO", "gpt_opt.training has no 'loses'", "did you mean gpt_opt.training.losses.DPO?"),
        ("torch.optim.AdmW", "the module torch.optim has no 'AdmW'", "did you mean torch.optim.AdamW?"),
        ("torch.optm.AdamW", "the module torch has no 'optm'", "did you mean torch.optim.AdamW?"),
        ("trnsformers.Trainer", "names no module: 'trnsformers'", "did you mean transformers.Trainer?"),
        ("Loss", "must be a dotted name, package.module.Name, but is 'Loss'", ""),
        ("broken.Loss", "broken.py:2 cannot be read as Python", ""),
    ],
)
def test_a_mistake_is_named_with_the_nearest_name(target: str, message: str, fix: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "broken.py").write_text("x = 1\nclass Loss\n")
    found = look_up(target, ROOT if target.startswith("gpt_opt") else tmp_path)
    assert found is not None
    assert not found.elsewhere
    assert message in found.message
    assert fix in found.fix


def test_a_module_that_is_not_here_may_be_elsewhere_and_nothing_is_imported(tmp_path: Path) -> None:
    found = look_up("lab_losses.Loss", tmp_path)  # another test may have imported `mine`
    assert found is not None
    assert found.elsewhere
    code = "import sys; from pathlib import Path; from gpt_opt.config.lookup import look_up\n"
    code += "print(look_up('torch.optim.AdamW', Path()), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "None False\n"


def test_every_target_of_a_config_is_seen() -> None:
    config = {"a": {"_target_": "x.y", "b": [{"_target_": "z.w"}, 3]}, "c": {"_target_": None}}
    assert list(targets(config)) == [("a._target_", "x.y"), ("a.b[0]._target_", "z.w")]
