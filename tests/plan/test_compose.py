"""Hand-written points: each kind of override and interpolation, equal to Hydra, and fast where it should be."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException, HydraException, OverrideParseException
from hydra.version import getbase
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gpt_opt.plan.compose.composer import Composed, ComposeFailure, Composer
from gpt_opt.plan.compose.hydra import Configs, HydraEngine
from gpt_opt.plan.compose.overrides import read_override
from tests.plan.compose_reference import assert_like_hydra, described
from tests.plan.compose_schema import CONFIG_DIR, PURE

BETA = "loss.beta=0.5"


@pytest.fixture
def composer() -> Composer:
    return Composer(CONFIG_DIR, pure_resolvers=PURE)


def product(*axes: list[str]) -> list[list[str]]:
    return [list(point) for point in itertools.product(*axes)]


def composed(result: Composed | ComposeFailure) -> Composed:
    assert isinstance(result, Composed), result
    return result


def test_the_ordinary_grid_is_fast(composer: Composer) -> None:
    points = product(
        ["optimizer=adamw", "optimizer=rmsprop"],
        ["loss.beta=0.05", "loss.beta=0.1"],
        ["seed=1"],
        ["optimizer.lr=1e-3", "optimizer.lr=0.002"],
        ["free.number=2"],
        ["model.width=128", "model.width=256"],
    )
    assert_like_hydra(composer, points)
    assert composer.fast == len(points)
    assert not composer.slow


def words(text: str) -> list[str]:
    return text.split()


FAST: dict[str, list[list[str]]] = {
    "group options that only they have": product(["optimizer=rmsprop", "model=late"], [BETA], ["seed=1", "seed=2"]),
    "key of the chosen option": [["optimizer=rmsprop", "optimizer.alpha=0.5", BETA], ["optimizer.alpha=1", BETA]],
    "_self_ first, last": product(["model=small", "model=large", "model=late"], [BETA], ["model.width=1", "seed=3"]),
    "packages": product(
        ["store@stores.main=full", "nested/inner@data.inner=two"], [BETA], ["stores.main.port=9", "seed=2"]
    ),
    "package header": product(["nested=first", "nested=second"], [BETA], ["groups.nested.inner.number=4", "seed=5"]),
    "optional group": [["+tracker=file", BETA, "name=x"], ["tracker=null", BETA], ["+extra=global", BETA]],
    "deleted group": [["~store@stores.spare", BETA, "seed=1"], ["~data", BETA, "seed=1"]],
    "relative interpolations": [[BETA, "optimizer.lr=3"], [BETA, "chain.a=5"], [BETA, "chain.b=x", "seed=4"]],
    "nested interpolation": product(
        [BETA], ["which=adamw", "which=rmsprop", "which=no"], ["rates.adamw=7", "rates.rmsprop=8"]
    ),
    "whole node": product([BETA], ["optimizer.schedule.warmup=3", "optimizer.lr=5"], ["which=no", "seed=6"]),
    "whole node of an option": product(
        [BETA, "optimizer=rmsprop"], [BETA], ["data.schedule.warmup=3", "optimizer.lr=5"]
    ),
    "node that holds a missing leaf": [[BETA, "data.rows=???"], [BETA, "limits.must=1"], [BETA, "model.name=???"]],
    "select with a computed key": product([BETA], ["which=number", "which=text"], ["free.number=9", "free.text=seed"]),
    "decoded text": product([BETA], ["free.text=seed", "free.text=12", "free.text='[1,2]'"], ["seed=8"]),
    "custom resolver": product([BETA], ["seed=2", "seed=3"], ["free.number=4", "free.number=0.5"]),
    "text of texts": product([BETA], ["model.name=m", "stores.main.host=h"], ["label=l", "where=w", "seed=1"]),
    "typed conversions": [
        [BETA, value]
        for value in words(
            "limits.whole=1 limits.whole=1.0 limits.whole=1.5 limits.whole=true limits.whole=x limits.whole='7' "
            "limits.real=1 limits.on=1 limits.on=yes limits.on=maybe limits.text=1 limits.text=1.50"
        )
    ],
    "enum, path, union": product(
        [BETA],
        ["limits.color=blue", "limits.color=BLUE", "limits.color=2", "limits.color=x"],
        ["limits.file=c", "seed=1"],
    ),
    "null": product(
        [BETA], ["limits.maybe=null", "limits.whole=null", "free.number=null", "loss.kind=null"], ["name=null"]
    ),
    "bool against int": product(
        [BETA], ["free.flag=1", "free.flag=true", "free.flag=True", "free.flag='true'"], ["seed=true"]
    ),
    "interpolation that is overridden": product(
        [BETA], ["limits.of_seed=5", "limits.of_seed=x", "free.of_seed=x"], ["seed=1"]
    ),
    "the same key twice": [[BETA, "seed=1", "seed=2"], [BETA, "seed=x", "seed=2"], [BETA, "seed=1", "seed=x"]],
    "list values": product(
        [BETA], ["limits.many=[1]", "limits.many=[a]", "optimizer.betas=[0.5,0.6]"], ["seed=1", "seed=2"]
    ),
    "dict values": product([BETA], ["free.table={x:5}", "limits.named={two:2}", "free.nothing={a:1}"], ["seed=1"]),
    "interpolation as value": product(
        [BETA], ["free.text=${seed}", "limits.text=v${seed}", "free.text=${no}"], ["seed=1", "seed=2"]
    ),
    "escaped": [
        [BETA, r"free.nothing=\${seed}", "seed=1"],
        [BETA, r"free.nothing='a\${b}'"],
        [BETA, r"free.nothing='a\\${seed}'", "seed=2"],
        [BETA, "free.nothing=$x"],
    ],
    "+ and ++ and ~": product(
        [BETA],
        ["+new=1", "++seed=4", "+free.new.deep=2", "~free.flag", "~free.nothing", "+seed=1", "~seed", "~free.no"],
        ["seed=1"],
    ),
    "under another override": product(
        [BETA], ["limits.named={two:1}", "data.inner=null"], ["limits.named.one=2", "seed=5"]
    ),
    "above another override": product(
        [BETA], ["free.table.x=9", "free.table.x=8"], ["free.table={x:5}", "~free.table"]
    ),
    "same key as value and as list": [[BETA, "free.nothing=1", "free.nothing=[1]"], [BETA, "++seed=4", "seed=5"]],
    "bracketed key": product(
        [BETA], ["free[number]=4", "limits.many.0=1", "limits.many[1]=2"], ["free.number=5", "seed=1"]
    ),
    "unknown keys": product([BETA], ["nope=1", "free.nope=1", "limits.nope=1", "seed.nope=1"], ["seed=1", "seed=2"]),
    "unknown options": product(["model=nope", "nope=small", "nope/x=y", "model@x=small"], [BETA], ["seed=1", "seed=x"]),
    "read-only": product([BETA], ["sealed.value=2"], ["seed=1", "seed=2"]),
    "hydra keys": product([BETA], ["hydra.run.dir=x", "hydra.job.name=y", "hydra.nope=1"], ["seed=1", "seed=2"])[:4],
    "sweep syntax": product(
        [BETA], ["seed=1,2", "seed=range(1,3)", "seed=choice(1,2)", "seed=[1", "=", "seed"], ["free.number=1"]
    ),
    "group and dict": [["model={width:5}", BETA], ["model={width:5}", "model=late", BETA]],
    "first mistake first": [
        [BETA, "seed=x", "limits.whole=y"],
        [BETA, "limits.whole=y", "seed=x"],
        [BETA, "~no", "seed=x"],
    ],
    "numbers": product(
        [BETA],
        ["free.number=1e400", "free.number=-0.0", "free.number=nan", "free.number=12345678901234567890"],
        ["seed=1"],
    ),
}


@pytest.mark.parametrize("name", FAST)
def test_equal_and_fast(composer: Composer, name: str) -> None:
    """Equal to Hydra; and once the Composer has seen these points, it composes none of them again."""
    answers = assert_like_hydra(composer, FAST[name])
    list(composer.compose_many(FAST[name]))  # a key first seen late makes it look again at what came before
    composer.slow.clear()
    before = composer.fast
    again = list(composer.compose_many(FAST[name]))
    assert not composer.slow
    assert composer.fast == before + len(FAST[name])
    assert [described(result) for result in again] == answers


SLOW: dict[str, list[str]] = {
    "undeclared resolver": ["+free.size=${test_root:}"],
    "resolver that walks the config": ["+free.of_root=${test_half:4}${test_root:}"],
    "resolver that caches": ["+free.cached='${test_cached:${seed}}'", "seed=3"],
    "time": ["data=clock"],
    "decoded text that holds an interpolation": [r"free.text=\${seed}"],
    "text that may be decoded into one": ["+dollar='a: $'", "+joined='${oc.decode:${dollar}}'"],
    "resolver that makes a node": ["+made='${oc.create:{a:1}}'"],
    "layer through an interpolation": ["copy.lr=5", "optimizer.lr=3"],
    "dict over a dict that holds interpolations": ["free={number:1}", "free.flag=false"],
    "key below an interpolation": ["optimizer=rmsprop", "optimizer.schedule.warmup=3"],
    "search path": ["hydra.searchpath=[]"],
    "hydra refuses the base": ["hydra.nope=1"],
}


@pytest.mark.parametrize("name", SLOW)
def test_handed_to_hydra(composer: Composer, name: str) -> None:
    point = [BETA, *SLOW[name]]
    assert_like_hydra(composer, [point, point])
    assert composer.slow.total() == 2
    assert composer.fast == 0


def test_random_resolver_is_called_for_every_point(composer: Composer) -> None:
    points = [[BETA, "+x=${test_random:}"]] * 3
    values = [composed(result).config["x"] for result in composer.compose_many(points)]
    assert len(set(values)) == 3


def test_environment_is_read_at_every_call(composer: Composer, monkeypatch: pytest.MonkeyPatch) -> None:
    for home in ("one", "two"):
        monkeypatch.setenv("GPTOPT_TEST_HOME", home)
        assert composer.compose([BETA]).config["home"] == home


def test_missing_keys(composer: Composer) -> None:
    first, second = (
        composed(r)
        for r in composer.compose_many([[BETA], [BETA, "data.rows=1", "free.flag=???", "store@stores.main=full"]])
    )
    assert first.missing == ("data.rows", "limits.must")
    with_copy = composed(next(composer.compose_many([[BETA, "+again2=${data}", "+listing=[1,???]"]])))
    assert with_copy.missing == ("again2.rows", "data.rows", "limits.must", "listing[1]")
    assert second.missing == ("free.flag", "limits.must")


def test_unchanged_subtrees_are_shared(composer: Composer) -> None:
    one, other = (composed(result) for result in composer.compose_many([[BETA, "seed=1"], [BETA, "seed=2"]]))
    assert one.config["stores"] is other.config["stores"]
    assert one.config["seed"] == 1
    assert other.config["seed"] == 2


def test_a_node_is_shared_by_all_points_with_its_values(composer: Composer) -> None:
    points = [[f"loss.beta={beta}", f"seed={seed}"] for beta in (0.5, 1, 0.5) for seed in (1, 2)]
    nodes = [composed(result).config["loss"] for result in composer.compose_many(points)]
    assert len({id(node) for node in nodes}) == 2
    assert [node["beta"] for node in nodes] == [0.5, 0.5, 1.0, 1.0, 0.5, 0.5]


def test_compose_raises_what_hydra_raises(composer: Composer) -> None:
    with pytest.raises(ConfigCompositionException, match="Error merging override seed=x") as caught:
        composer.compose([BETA, "seed=x"])
    assert isinstance(caught.value.__cause__, OmegaConfBaseException)
    with pytest.raises(OverrideParseException):
        composer.compose(["seed=[1"])


def test_a_shared_mistake_is_worded_once(composer: Composer) -> None:
    points = [[BETA, f"free.number={i}", "seed=x"] for i in range(50)]
    failures = [result for result in composer.compose_many(points) if isinstance(result, ComposeFailure)]
    assert len(failures) == 50
    assert len({id(failure.error) for failure in failures}) == 1
    assert composer.slow.total() == 0


def test_points_are_composed_as_they_are_asked_for(composer: Composer) -> None:
    stream = composer.compose_many([BETA, f"seed={i}"] for i in itertools.count())
    assert [composed(next(stream)).config["seed"] for _ in range(3)] == [0, 1, 2]


def test_leaves_a_running_hydra_alone(composer: Composer) -> None:
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.2"):
        before, base = GlobalHydra.instance().hydra, getbase()
        composer.compose([BETA])
        assert GlobalHydra.instance().hydra is before
        assert getbase() == base
        assert compose("config", overrides=[BETA]).loss.beta == 0.5
    assert OmegaConf.has_resolver("oc.env")


def test_works_inside_a_hydra_application(tmp_path: Path) -> None:
    script = tmp_path / "app.py"
    script.write_text(
        f"""
import sys
from pathlib import Path
sys.path[:0] = {[str(Path(__file__).parent), str(Path(__file__).parents[2])]!r}
import hydra
from tests.plan import compose_schema
compose_schema.register()
from gpt_opt.plan.compose.composer import Composer
@hydra.main(config_path={str(CONFIG_DIR)!r}, config_name="config", version_base="1.3")
def main(cfg):
    composer = Composer(Path({str(CONFIG_DIR)!r}), pure_resolvers=compose_schema.PURE)
    print("beta", composer.compose(["loss.beta=4"]).config["loss"]["beta"], cfg.loss.beta)
main()
"""
    )
    command = [sys.executable, str(script), "loss.beta=2", f"hydra.run.dir={tmp_path / 'run'}"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, "HYDRA_FULL_ERROR": "1"}
    )
    assert "beta 4 2" in done.stdout


@given(
    st.from_regex(r"[a-z_]{1,3}(\.[a-z0-9_]{1,2}){0,2}", fullmatch=True),
    st.from_regex(r"[+-]?[0-9]{1,3}(\.[0-9]{0,2})?([eE][+-]?[0-9]{1,3})?", fullmatch=True) | st.floats().map(repr),
)
def test_numbers_are_read_as_by_the_grammar(key: str, number: str) -> None:
    item = read_override(f"{key}={number}", lambda _: False)
    try:
        expected = OverridesParser.create().parse_override(f"{key}={number}")
    except HydraException:
        assert item.override is None
    else:
        assert repr(item.override) == repr(expected)


def test_missing_config_folder(tmp_path: Path) -> None:
    assert_like_hydra(Composer(tmp_path / "none"), [["a=1"], ["a=[1"]], tmp_path / "none")


def test_a_file_is_read_once_as_long_as_it_stays_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[object] = []
    load = OmegaConf.load
    monkeypatch.setattr(OmegaConf, "load", staticmethod(lambda file: read.append(file) or load(file)))
    file = tmp_path / "config.yaml"
    file.write_text("a: {b: 1}\n")
    engines = [HydraEngine(Configs(tmp_path)) for _ in range(2)]
    assert [engine.load([override]).a.b for engine in engines for override in ("a.b=5", "a.b=1", "+c=3")] == [
        5,
        1,
        1,
    ] * 2
    assert len([item for item in read if getattr(item, "name", "") == str(file)]) == 1
    file.write_text("a: {b: 2}\n")
    os.utime(file, ns=(1, 1))
    assert engines[0].load([]).a.b == 2
