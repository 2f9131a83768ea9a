"""What the code of an application says of it: what it registers, imports, logs with and saves, by its syntax."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from gpt_opt.app.source_tree import SourceTree, dotted, executed, imported_names

_REGISTERING = re.compile(
    r"(^|\.)(register_new_resolver|register_resolver|legacy_register_resolver|add_to_hydra_store|ConfigStore\.instance)$"
)
_SETTING = re.compile(r"(^|\.)(setup_root|load_dotenv|environ\.setdefault|environ\.update)$")

_WARM = (
    *("torch", "torchvision", "transformers", "datasets", "lightning", "pytorch_lightning", "accelerate", "peft"),
    *("trl", "timm", "torch_geometric", "pandas", "scipy", "sklearn"),
)
"""Modules that take long to import and bear a fork."""

_NOT_FORKED = frozenset({"jax", "tensorflow", "deepspeed"})
"""Modules with threads or devices of their own from the import on."""

_SEEDING = re.compile(r"^torch\.cuda\.(manual_seed|manual_seed_all)$")

LOGGERS = {
    "gpt_opt.report": "report",
    "CSVLogger": "csv",
    "SummaryWriter": "tensorboard",
    "TensorBoardLogger": "tensorboard",
    "wandb.init": "wandb",
    "WandbLogger": "wandb",
}
"""Names that write metrics, each with the source that reads them."""

_TRAINERS = frozenset({"Trainer", "Seq2SeqTrainer", "SFTTrainer", "DPOTrainer", "RewardTrainer", "KTOTrainer"})
CSV_FILE = "metrics.csv"
"""In place of a source: the code names such a file, and what writes it may be a logger that the config selects."""

_WEIGHTS = re.compile(r"[\w./*-]*\w\.(pt|pth|ckpt)")


@dataclass(frozen=True)
class Evidence:
    """One line of the application that says something of it.

    Attributes:
        where: `file:line`, relative to the root.
        what: What stands there.
    """

    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where} {self.what}"


@dataclass(frozen=True)
class CodeFacts:
    """What the code says.

    Attributes:
        registers: Where it registers structured configs or resolvers.
        sets_environment: Where it sets variables of the environment.
        keeps_from_forking: Where importing it starts CUDA, or something else that no fork bears.
        warm_imports: Modules of others that take long to import.
        logs: Sources of metrics that it writes, with the line.
        saves: Names of checkpoint files that it has.
    """

    registers: tuple[Evidence, ...] = ()
    sets_environment: tuple[Evidence, ...] = ()
    keeps_from_forking: tuple[Evidence, ...] = ()
    warm_imports: tuple[str, ...] = ()
    logs: tuple[tuple[str, Evidence], ...] = ()
    saves: tuple[str, ...] = ()


def look_at_code(sources: SourceTree, script: Path) -> CodeFacts:
    """Returns what a script says, and the files of the repository that it imports."""
    trees = [(file, tree) for file in sources.imported_with(script) if (tree := sources.tree(file)) is not None]
    calls = [(file, node, dotted(node.func)) for file, node in _nodes(trees) if isinstance(node, ast.Call)]
    modules = {name.partition(".")[0] for file, tree in trees for name, base in imported_names(tree, file) if not base}
    return CodeFacts(
        _evidence(sources, ((file, node, name) for file, node, name in calls if _REGISTERING.search(name))),
        _evidence(sources, _setting(trees)),
        _evidence(sources, _not_forked(trees)),
        tuple(name for name in _WARM if name in modules),
        tuple(_logs(sources, trees)),
        tuple(dict.fromkeys(_saves(trees))),
    )


Trees = list[tuple[Path, ast.Module]]


def _nodes(trees: Trees) -> Iterator[tuple[Path, ast.AST]]:
    """Yields every node in the order of the lines."""
    for file, tree in trees:
        yield from ((file, node) for node in sorted(ast.walk(tree), key=lambda node: getattr(node, "lineno", 0)))


def _evidence(sources: SourceTree, found: Iterable[tuple[Path, ast.expr | ast.stmt, str]]) -> tuple[Evidence, ...]:
    return tuple(Evidence(sources.shown(file, node), what) for file, node, what in found)


def _setting(trees: Trees) -> Iterator[tuple[Path, ast.expr | ast.stmt, str]]:
    """Yields where variables of the environment are set by the import."""
    for file, tree in trees:
        for node in executed(tree):
            if isinstance(node, ast.Call) and _SETTING.search(dotted(node.func)):
                yield file, node, dotted(node.func)
            elif isinstance(node, ast.Assign):
                targets = (item for item in node.targets if isinstance(item, ast.Subscript))
                if any(dotted(item.value) in ("os.environ", "environ") for item in targets):
                    yield file, node, "os.environ"


def _not_forked(trees: Trees) -> Iterator[tuple[Path, ast.expr | ast.stmt, str]]:
    for file, tree in trees:
        for node in executed(tree):
            if isinstance(node, ast.Call) and (what := _starts_cuda(node)):
                yield file, node, what
            elif isinstance(node, ast.Import | ast.ImportFrom):
                names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [item.name for item in node.names]
                found = [name for name in names if name.partition(".")[0] in _NOT_FORKED]
                yield from ((file, node, f"import {name}") for name in found)


def _starts_cuda(call: ast.Call) -> str:
    """Returns what a call does on CUDA; empty if nothing, as far as one sees."""
    name = dotted(call.func)
    if name.startswith("torch.cuda.") and not _SEEDING.match(name):
        return name
    attribute = call.func.attr if isinstance(call.func, ast.Attribute) else ""
    devices = [item.value for item in call.keywords if item.arg == "device"]
    devices += call.args if attribute == "to" else []
    if attribute == "cuda" and not call.args:
        return ".cuda()"
    on_cuda = any(isinstance(item, ast.Constant) and str(item.value).startswith("cuda") for item in devices)
    return f"{name or attribute} on cuda" if on_cuda else ""


def _logs(sources: SourceTree, trees: Trees) -> Iterator[tuple[str, Evidence]]:
    """Yields the sources of metrics that the code writes, each once."""
    seen: set[str] = set()
    for file, node in _nodes(trees):
        source, what = "", ""
        if isinstance(node, ast.Name | ast.Attribute):
            what = dotted(node)
            source = LOGGERS.get(what) or LOGGERS.get(what.rpartition(".")[2], "")
        elif isinstance(node, ast.Constant) and str(node.value).endswith(CSV_FILE):
            source, what = CSV_FILE, str(node.value)
        elif isinstance(node, ast.ImportFrom):
            module, names = node.module or "", {alias.name for alias in node.names}
            of_trainer = module.partition(".")[0] in ("transformers", "trl") and names & _TRAINERS
            reports = module.startswith("gpt_opt.integrations") or (module == "gpt_opt" and "report" in names)
            source = "report" if reports else "trainer_state" if of_trainer else ""
            what = f"from {module}"
        if source and source not in seen and isinstance(node, ast.expr | ast.stmt):
            seen.add(source)
            yield source, Evidence(sources.shown(file, node), what)


def _saves(trees: Trees) -> Iterator[str]:
    for _, node in _nodes(trees):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and _WEIGHTS.fullmatch(node.value):
            yield node.value
