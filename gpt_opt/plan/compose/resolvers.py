"""Resolvers while an application's configs are composed to plan them: none may depend on a directory or the time.

A run has its directory by its id, and its id by its config; what a config says of its directory is left as text.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf, ValueNode
from omegaconf._utils import split_key
from omegaconf.basecontainer import BaseContainer

_CONTEXT = ("pass_root", "pass_parent", "pass_node")
"""What OmegaConf's wrapper of a resolver calls that it is given more than its arguments."""


def stand_in_for_hydra(job_name: str) -> None:
    """Registers `hydra` and `now`, which know the run, its directory and the time: they name what they stand for.

    OmegaConf looks each resolver up in one registry of the process, and the text of a call cannot be told from what
    surrounds it without resolving it. So they take the place of Hydra's in this process, which only plans and then ends
    (gpt_opt.plan.child): no run is in it that could ask.

    Args:
        job_name: What `${hydra:job.name}` comes to.
    """

    def of_hydra(key: str = "") -> str:
        return job_name if key == "job.name" else f"<hydra:{key}>"

    OmegaConf.register_new_resolver("hydra", of_hydra, replace=True)
    OmegaConf.register_new_resolver("now", lambda pattern="": "<now>", replace=True)


@contextmanager
def recorded_resolvers() -> Iterator[set[str]]:
    """Notes the resolvers that were registered meanwhile and return the same for the same arguments.

    One that reads the config beside its arguments is not among them.
    """
    names: set[str] = set()
    before = BaseContainer._resolvers.copy()
    yield names
    for name, resolver in BaseContainer._resolvers.items():
        if resolver is not before.get(name) and _reads_arguments_alone(resolver):
            names.add(name)


def with_choices(config: DictConfig, choices: Mapping[str, Any]) -> None:
    """Puts the chosen options into a config where it asks Hydra for them: a run is another one with another option.

    Args:
        config: A composed config, which is changed.
        choices: The option of each group, `hydra.runtime.choices`.
    """
    for value in _values(config):
        text = value._value()
        if (
            value._is_interpolation()
            and (chosen := _CHOICE.sub(lambda found: str(choices.get(found[1])), text)) != text
        ):
            value._set_value(chosen)


_CHOICE = re.compile(r"\$\{hydra:runtime\.choices\.([\w/@-]+)\}")


def leave_as_text(config: DictConfig, key: str) -> None:
    """Makes texts of the interpolations at and below a key that call a resolver of the application.

    Args:
        config: A composed config, which is changed.
        key: Dotted.
    """
    *above, last = split_key(key)
    node: Any = config
    for step in above:
        node = node._get_node(step, validate_access=False) if isinstance(node, DictConfig) else None
    child = node._get_node(last, validate_access=False) if isinstance(node, DictConfig) else None
    for value in _values(child):
        text = value._value()
        if value._is_interpolation() and _CALL.search(text):
            value._val = text.replace("${", "$(")


_CALL = re.compile(r"\$\{(?!oc\.|hydra:|now:)[\w.]+:")
"""A call of a resolver that is not OmegaConf's or Hydra's."""


def _values(node: Any) -> Iterator[ValueNode]:
    content = node.__dict__["_content"] if isinstance(node, DictConfig | ListConfig) else None
    if isinstance(node, ValueNode):
        yield node
    for child in content.values() if isinstance(content, dict) else content if isinstance(content, list) else ():
        yield from _values(child)


def _reads_arguments_alone(resolver: Callable[..., Any]) -> bool:
    """Returns whether OmegaConf gives a registered resolver its arguments alone; not where it does not say so."""
    wrapped = inspect.getclosurevars(resolver).nonlocals if inspect.isfunction(resolver) else {}
    return all(wrapped.get(name) is False for name in _CONTEXT)
