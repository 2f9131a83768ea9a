"""Imports point one way (design.md, section 2), and torch stays under training/."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

MAY_IMPORT = {
    "gpt_opt.errors": set(),
    "gpt_opt.table": {"errors"},
    "gpt_opt.records": {"errors"},
    "gpt_opt.config": {"errors", "records"},
    "gpt_opt.sweep": {"errors", "config"},
    "gpt_opt.app": {"errors", "records", "config", "sweep"},
    "gpt_opt.reporting": {"records"},
    "gpt_opt.integrations": {"reporting", "records", "app"},
    "gpt_opt.training": {"errors", "config", "records"},
    "gpt_opt.run": {"errors", "config", "records", "app", "reporting", "training"},
    "gpt_opt.plan": {"errors", "config", "sweep", "records", "app", "run"},
    "gpt_opt.dispatch": {"errors", "config", "sweep", "records", "app", "plan", "run"},
    "gpt_opt.own_app": {"errors", "config", "sweep", "records", "app", "plan", "run"},
    "gpt_opt.api": {"errors", "config", "sweep", "records", "training", "run", "plan", "own_app"},
    "gpt_opt.sweep_api": {"errors", "config", "sweep", "records", "app", "run", "plan", "dispatch", "own_app"},
    "gpt_opt.cli": {
        *("errors", "table", "config", "sweep", "records", "app", "plan", "dispatch", "run", "training", "own_app"),
    },
}
HEAVY = ("torch", "transformers", "peft", "accelerate", "lightning", "pytorch_lightning")
MAY_BE_HEAVY = ("gpt_opt.training", "gpt_opt.integrations")

ALIASES = {
    "gpt_opt": {"gpt_opt.sweep", "gpt_opt.reporting"},
    "gpt_opt.sweep": {"gpt_opt.sweep_api"},
    "gpt_opt.training": {"gpt_opt.api"},
}
"""What users have by a shorter name too, `gpt_opt.sweep(...)`: imported when they ask for it."""


@cache
def modules() -> dict[str, Path]:
    files = [*(ROOT / "gpt_opt").rglob("*.py"), *(ROOT / "analysis").rglob("*.py")]
    return {".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file for file in files}


def nodes(tree: ast.AST, for_types: bool) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if for_types or not isinstance(node, ast.If) or "TYPE_CHECKING" not in ast.unparse(node.test):
            yield node
            yield from nodes(node, for_types)


def imported(name: str, for_types: bool = True) -> set[str]:
    """Returns what a module imports, at any depth: statements, names given to `import_module` and `__import__`.

    Args:
        name: The module.
        for_types: Whether imports count that are for annotations alone, which never run.
    """
    found: set[str] = set()
    for node in nodes(ast.parse(modules()[name].read_text()), for_types):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: relative import"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {item if item in modules() else str(node.module) for item in names}
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            texts = (item.value for item in ast.walk(node) if isinstance(item, ast.Constant))
            found |= {text for text in texts if isinstance(text, str)}
    return found - ALIASES.get(name, set())


def layer(module: str) -> str:
    return ".".join(module.split(".")[:2])


def test_every_module_has_a_layer() -> None:
    own = {layer(name) for name in modules() if name.startswith("gpt_opt.")}
    assert own <= set(MAY_IMPORT)
    assert len(modules()) > 30


@pytest.mark.parametrize("module", sorted(modules()))
def test_imports_point_one_way(module: str) -> None:
    targets = {name for name in imported(module) if name.startswith(("gpt_opt.", "analysis"))}
    if module.startswith("analysis"):
        allowed = ("analysis", "gpt_opt.records", "gpt_opt.errors", "gpt_opt.table", "gpt_opt.app")
        assert not {name for name in targets if not name.startswith(allowed)}
        return
    if module == "gpt_opt":
        assert not targets
        return
    own = layer(module)
    if own in ("gpt_opt.sweep_api", "gpt_opt.cli"):  # hand out results as pandas has them
        targets = {name for name in targets if not name.startswith("analysis")}
    allowed_layers = {own, *(f"gpt_opt.{name}" for name in MAY_IMPORT[own])}
    assert {layer(name) for name in targets} <= allowed_layers


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {name: imported(name, for_types=False) & modules().keys() for name in modules()}
    TopologicalSorter(graph).prepare()  # raises with the circle


@pytest.mark.parametrize("module", sorted(name for name in modules() if not name.startswith(MAY_BE_HEAVY)))
def test_torch_is_imported_under_training_alone(module: str) -> None:
    assert not {name for name in imported(module) if name.split(".")[0] in HEAVY}


@pytest.mark.parametrize(
    "module", ["gpt_opt.run.main", "gpt_opt.own_app.command_line", "analysis", "gpt_opt.config.schema", "gpt_opt.api"]
)
def test_nothing_heavy_is_loaded(module: str) -> None:
    code = f"import {module}, sys; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_line_in_a_training_program_costs_it_no_import() -> None:
    code = "import gpt_opt, sys; gpt_opt.report; print([name for name in sys.modules if name.startswith('gpt_opt')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['gpt_opt', 'gpt_opt.reporting']"


@pytest.mark.parametrize(
    "module", ["gpt_opt.training", "gpt_opt.dispatch.slot.slot", "gpt_opt.dispatch.driver", "gpt_opt.app.settings"]
)
def test_slots_and_those_who_do_not_use_the_api_do_without_hydra(module: str) -> None:
    code = (
        f"import {module}, sys; print([name for name in ('hydra', 'omegaconf', 'gpt_opt.api') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


TRAINING_ALONE = ("gpt_opt.config.checks", "gpt_opt.config.schema", "gpt_opt.config.files", "gpt_opt.own_app")


@pytest.mark.parametrize("room", ["app", "plan", "dispatch", "records"])
def test_what_serves_every_application_knows_nothing_of_our_training(room: str) -> None:
    inside = [name for name in modules() if name.startswith(f"gpt_opt.{room}.")]
    found = {name: {item for item in imported(name) if item.startswith(TRAINING_ALONE)} for name in inside}
    assert not {name: items for name, items in found.items() if items}
