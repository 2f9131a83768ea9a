"""Packages that transformers imports only to ask whether something is theirs stay out of runs that do not use them.

`transformers.trainer` asks whether a data set is one of `datasets` (which brings pandas and pyarrow) and whether a
model is one of `peft`; the losses of object detection bring scipy. Together that is a quarter of what a run imports.
Nothing is of a class whose package nobody has imported: so while those modules are executed, a stand-in for each
package answers by looking whether it has been imported since.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

_IN: dict[str, tuple[str, ...]] = {
    "transformers.trainer": ("datasets", "peft"),
    "transformers.trainer_utils": ("peft",),
    "transformers.loss.loss_utils": ("scipy", "scipy.optimize"),
}
"""Packages that stand-ins are for, by the module of transformers that imports them."""

_CLASSES = {"datasets": ("Dataset",), "peft": ("PeftModel", "PeftMixedModel")}
"""What those modules ask for."""


def install() -> None:
    """Makes imports lean from now on; the second time does nothing."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _OfPackage(type):
    """The class of stand-ins for classes: something is of them if it is of the class that they stand for."""

    def __instancecheck__(cls, instance: Any) -> bool:
        package, name = vars(cls)["stands_for"]
        return package in sys.modules and isinstance(instance, getattr(sys.modules[package], name))


def _stand_in(package: str) -> ModuleType:
    module = ModuleType(package)
    module.__spec__, module.__path__ = PathFinder.find_spec(package) or ModuleSpec(package, None), []
    for name in _CLASSES.get(package, ()):
        setattr(module, name, _OfPackage(name, (), {"stands_for": (package, name)}))
    if package == "scipy.optimize":
        vars(module)["linear_sum_assignment"] = _linear_sum_assignment

    def of_package(name: str) -> Any:
        if sys.modules.get(package) is module:
            raise AttributeError(f"the stand-in for {package} has no {name}")
        return getattr(import_module(package), name)

    vars(module)["__getattr__"] = of_package
    return module


def _linear_sum_assignment(*arguments: Any, **options: Any) -> Any:
    return import_module("scipy.optimize").linear_sum_assignment(*arguments, **options)


class _Finder(MetaPathFinder):
    """Finds the modules of `_IN`, to be executed with stand-ins."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> Any:
        if fullname not in _IN or (spec := PathFinder.find_spec(fullname, path, target)) is None:
            return None
        assert spec.loader is not None
        # of this import alone: each spec has a loader of its own
        spec.loader.exec_module = _standing_in(_IN[fullname])(spec.loader.exec_module)  # type: ignore[method-assign]
        return spec


@contextmanager
def _standing_in(packages: Sequence[str]) -> Iterator[None]:
    """Puts stand-ins in the place of packages that nobody has imported."""
    made = {name: _stand_in(name) for name in packages if name not in sys.modules}
    sys.modules.update(made)
    try:
        yield
    finally:
        for name in made:
            del sys.modules[name]
