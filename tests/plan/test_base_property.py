"""Random configs full of interpolations: setting values in a base gives what OmegaConf gives for the whole config.

Hydra is left out, so that many more interpolations of every form are tried than in the streams that Hydra composes.
"""

from __future__ import annotations

import copy
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf

from gpt_opt.config.explain import missing_keys
from gpt_opt.plan.compose.base import Base, Resolved
from gpt_opt.plan.compose.hydra import plain
from gpt_opt.plan.compose.overrides import read_override
from gpt_opt.plan.compose.references import PURE_RESOLVERS, Unpredictable
from tests.helpers.examples import examples

LEAVES = ["a.a", "a.b", "a.c", "b.a", "b.b", "b.c", "c", "d"]
paths = st.sampled_from([*LEAVES, *LEAVES, "a", "b", "e", "e.0", "nowhere"])
scalars = st.sampled_from([0, 1, 2.5, True, None, "a", "b", "a.b", "7"])
nodes = st.one_of(
    st.builds("${{{}}}".format, paths),
    st.builds("${{{}{}}}".format, st.sampled_from([".", "..", "..."]), st.sampled_from([*"abcd", "a.b"])),
)
simple = st.one_of(
    nodes,
    nodes,
    st.builds("${{oc.select:{},{}}}".format, paths, st.sampled_from("xyz")),
    st.builds("${{oc.dict.{}:{}}}".format, st.sampled_from(["keys", "values"]), st.sampled_from("ab")),
)
nested = st.one_of(
    st.builds("${{{}.{}}}".format, st.sampled_from("ab"), st.sampled_from(["${c}", "${d}", "${a.a}"])),
    st.builds("${{{}}}".format, st.sampled_from(["${c}", "${d}", "${b.a}"])),
    st.builds("${{oc.select:{}.{},{}}}".format, st.sampled_from("ab"), nodes, nodes),
    st.builds("{}_{}".format, simple, simple),
)
rare = st.sampled_from(["${oc.decode:${c}}", "${oc.decode:${a.a}_${d}}", r"\${x}${c}", "???", "$", r"\${c}"])
interpolations = st.one_of(*[simple] * 4, *[nested] * 4, rare)


@st.composite
def configs(draw: st.DrawFn) -> dict[str, Any]:
    """A config with these leaves and a list; an interpolation may name every key, so that circles and errors occur."""
    tree: dict[str, Any] = {"a": {}, "b": {}}
    computed = draw(st.sets(st.sampled_from(LEAVES), min_size=1, max_size=3))
    for path in draw(st.permutations(LEAVES)):
        above, _, name = path.rpartition(".")
        (tree[above] if above else tree)[name] = draw(interpolations if path in computed else scalars)
    return {**tree, "e": draw(st.lists(scalars | simple, max_size=2))}


texts = st.builds("{}={}".format, st.sampled_from(LEAVES), st.sampled_from(["0", "3", "a", "b", "null", "a.b", "???"]))


def whole(config: DictConfig, overrides: list[str]) -> Any:
    """Returns what OmegaConf makes of a config with these overrides, None where it raises."""
    config = copy.deepcopy(config)
    try:
        parsed = [read_override(text, lambda _: False).override for text in overrides]
        ConfigLoaderImpl._apply_overrides_to_config([item for item in parsed if item is not None], config)
        tree = plain(config)
    except Exception:
        return None
    return repr(tree), tuple(sorted(missing_keys(tree)))


@settings(max_examples=examples(14), suppress_health_check=list(HealthCheck))
@given(configs(), st.lists(st.lists(texts, max_size=4, unique_by=lambda text: text.partition("=")[0]), max_size=6))
def test_patching_equals_omegaconf(tree: dict[str, Any], points: list[list[str]]) -> None:
    config = OmegaConf.create(tree)
    before = OmegaConf.to_yaml(config)
    base = Base(config, PURE_RESOLVERS)
    for overrides in points:
        found = {item.key: base.setting(item) for item in (read_override(text, lambda _: False) for text in overrides)}
        given = {key: setting for key, setting in found.items() if setting is not None}
        if len(given) < len(found) or any(setting.error or "$" in str(setting.raw) for setting in given.values()):
            continue  # the Composer makes updates of them, or has the answer
        try:
            patched = base.patch(given)
        except Unpredictable:
            event("left to Hydra")
            return
        event("resolved" if not isinstance(patched, Resolved) else "failed")
        ours = None if isinstance(patched, Resolved) else (repr(patched[0]), patched[1])
        assert ours == whole(config, overrides)
    assert OmegaConf.to_yaml(config) == before
