"""What every run does in the same way before it looks at its request."""

from __future__ import annotations

from functools import cache

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from omegaconf import OmegaConf

from gpt_opt.config.schema import Root, register
from gpt_opt.records.provenance import packages
from gpt_opt.run.resolvers import register_resolvers

_LETTERS = "abcdefghijklmnopqrstuvwxyz_ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_VALUES = ("-1", "0.1", "3e-4", "true", "null", f"/{_LETTERS}-1.5/a_b", "'b c'", '"b"', "[0.1,{b:c}]", "${b.c}", "c-d")


@cache
def prepare() -> None:
    """Makes schemas, resolvers and plugins known to Hydra; the second time does nothing."""
    register()
    register_resolvers()
    Plugins.instance()


def prepare_for_forks() -> None:
    """Does `prepare`, reads the versions of packages, and lets the parsers learn, for all children of this process.

    What antlr learns of a character in one override makes the next ones ten times as fast.
    """
    prepare()
    packages()
    keys = [*Root.__dataclass_fields__, f"a{_LETTERS}0123456789", *_LETTERS]
    texts = [f"{key}.{key}_params.{key}={value}" for key, value in zip(keys, _VALUES * len(keys), strict=False)]
    texts += [
        f"{sign}a/b{package}={letter}" for sign in ("", "+", "++") for package in ("", "@c") for letter in _LETTERS
    ]
    OverridesParser.create().parse_overrides([*texts, "~a", "~a.b"])
    OmegaConf.to_container(OmegaConf.create({"a": "${b}/${oc.select:c,null}", "b": 1}), resolve=True)
