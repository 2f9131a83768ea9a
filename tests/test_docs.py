"""The pages of docs/: the generated one is up to date, every link leads somewhere, README is short."""

from __future__ import annotations

import importlib.util
import re
import shlex
import tomllib
from pathlib import Path

import pytest

from gpt_opt.app.command import parse_command
from gpt_opt.app.keys import TABLES
from gpt_opt.sweep.grid import parse_grid
from gpt_opt.sweep.points import count
from tests.config.test_exp import readme
from tests.conftest import ROOT, Runner

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.*)$", page.read_text(), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_the_page_of_all_keys_is_made_from_the_yaml_files() -> None:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    page = generate.page()
    assert generate.PAGE.read_text() == page, "run python docs/generate.py"
    assert "| `loss.beta` | `???` |" in page
    lines = [line for line in page.splitlines() if line.startswith("| `")]
    assert len(lines) > 200
    assert not [line for line in lines if line.endswith("|  |")], "a key without a comment"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", re.sub(r"```.*?```", "", page.read_text(), flags=re.S)):
        file, _, anchor = target.partition("#")
        if not file.startswith("http"):
            other = page.parent / file if file else page
            assert other.exists(), target
            assert not anchor or anchor in anchors(other), target


def test_every_stop_of_the_walks_is_a_line_that_begins_with_a_file_of_its_own() -> None:
    walks = (ROOT / "docs" / "architecture.md").read_text().split("Each stop is one line.")[1]
    for walk in walks.split("\n## ")[1:4]:
        title, *lines = filter(None, walk.splitlines())
        stops = [re.fullmatch(r"\d+\. `([\w/.]+)` .{,110}\.", line) for line in lines]
        assert len(stops) > 8
        assert [line for line, stop in zip(lines, stops, strict=True) if stop is None] == [], title
        files = [stop[1] for stop in stops if stop is not None]
        assert len(set(files)) == len(files), title
        assert [name for name in files if not any((ROOT / top / name).is_file() for top in ("", "gpt_opt"))] == []


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().split()) <= 1300


def test_the_optimizer_of_the_documentation_trains(
    tmp_path: Path, small: list[str], run_hydra: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "split.py").write_text(readme("# split.py"))
    (tmp_path / "optimizer").mkdir()
    (tmp_path / "optimizer" / "split.yaml").write_text(readme("optimizer_params: {name: split"))
    page = (ROOT / "docs" / "extending.md").read_text()
    line = re.search(r"`PYTHONPATH=\. python run_hydra\.py (optimizer=split .*?)`", page)
    assert line is not None
    done = run_hydra([f"hydra.searchpath=[file://{tmp_path}]", *small, *shlex.split(line[1])])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "step=12 eval_loss" in done.stdout


PAGES_OF_APPS = [ROOT / "docs" / name for name in ("your-own-app.md", "coming-from.md")]


@pytest.mark.parametrize("page", PAGES_OF_APPS, ids=lambda page: page.name)
def test_sweep_files_and_commands_of_the_pages_on_applications_are_right(page: Path) -> None:
    sweeps = 0
    for kind, text in re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(), flags=re.M | re.S):
        if kind == "json":
            assert sum(count(stage.space) for stage in parse_grid(text, page.name).stages) > 1
            sweeps += 1
        elif kind == "toml":
            command = parse_command(tomllib.loads(text)["app"]["command"])
            assert command.keys == {"task", "lr", "weights", "fp16", "resume"}
    assert sweeps == (4 if page.name == "coming-from.md" else 0)


def test_the_page_of_applications_has_every_key() -> None:
    page = PAGES_OF_APPS[0].read_text()
    missing = [
        key
        for table, keys in TABLES.items()
        for key, info in keys.items()
        if f"`[{table}]` | `{key}` | {info.doc}" not in page
    ]
    assert not missing, missing
