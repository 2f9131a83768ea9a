"""Docstrings say of tensors which shape and which type they have."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from tests.conftest import ROOT

_SIZE = r"(?:\.\.\.|[A-Za-z_]\w*|\d+)(?: (?:or|[-*+/]) \w+)*"
SHAPE = re.compile(
    rf"\((?:(?:{_SIZE}, )+{_SIZE}|{_SIZE},|)\)|\bscalar\b|\b(?:any|same|equal) shapes?\b|\bshape and type\b"
)
TYPE = re.compile(
    r"\b(?:float(?:32|64)|int64|bool|full precision|(?:any|same|one) (?:float )?type|types? of|types)\b|and type\b"
)


def of_tensors(annotation: ast.expr | None) -> bool:
    names = ast.walk(annotation) if annotation is not None else ()
    return any("Tensor" in (getattr(node, "id", ""), getattr(node, "attr", "")) for node in names)


def with_tensors(body: list[ast.stmt], above: str, owner: str) -> Iterator[tuple[str, str]]:
    """Yields the public functions, methods and attributes that have tensors: name, and all docstrings above it."""
    for node in body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and of_tensors(node.annotation):
            if owner and not node.target.id.startswith("_"):
                yield f"{owner}.{node.target.id}", above
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from with_tensors(node.body, f"{above}\n{ast.get_docstring(node)}", node.name)
        elif isinstance(node, ast.FunctionDef) and (not node.name.startswith("_") or node.name == "__call__"):
            arguments = [item.annotation for item in ast.walk(node.args) if isinstance(item, ast.arg)]
            if any(map(of_tensors, (*arguments, node.returns))):
                yield f"{owner}.{node.name}".lstrip("."), f"{above}\n{ast.get_docstring(node)}"


def test_every_tensor_has_a_shape_and_a_type() -> None:
    missing, count = [], 0
    for file in sorted((ROOT / "gpt_opt" / "training").rglob("*.py")):
        module = ast.parse(file.read_text(encoding="utf-8"))
        for name, text in with_tensors(module.body, ast.get_docstring(module) or "", ""):
            count += 1
            unsaid = [what for what, pattern in (("shape", SHAPE), ("type", TYPE)) if not pattern.search(text)]
            missing += [f"{file.relative_to(ROOT)}: {name} has no {what}" for what in unsaid]
    assert count > 80
    assert missing == []
