"""Random override lists of every kind: `compose_many` answers what `hydra.compose` answers.

One example is a stream of several points over few overrides, so that what one point taught the Composer is used by the
next. Hydra takes most of the time, a sixth of a second for a point: the default 8 examples are about 90 points;
`GPTOPT_TEST_EXAMPLES=1000` runs 1,000 examples.
"""

from __future__ import annotations

import random

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from gpt_opt.plan.compose.composer import Composer
from tests.helpers.examples import examples
from tests.plan.compose_reference import assert_like_hydra
from tests.plan.compose_schema import CONFIG_DIR, PURE


def words(text: str) -> list[str]:
    """Splits a text at white space."""
    return text.split()


SCALARS = words(
    r"""
    0 1 3 -7 0.5 1e-4 -0.0 nan inf true false True null '' red blue RED Color.red adamw rmsprop seed ??? 'null'
    '1' 0x10 1_000 abc a/b 'a b' 'a,b' "it's" 日本 $x a\b number text x 99999999999999999999 int(3.7) str(5)
    'c:\d'
    """
)
SCALARS += ["'a b'", r"\${x}", r"'\${seed}'"]
LISTS = ["[]", "[1]", "[0.1,0.2]", "[a,b]", "[1,[2,3]]", "[${seed}]", "{}", "{x:1}", "{one:2}", "{z:{w:1}}", "{a:null}"]
INTERPOLATIONS = [
    "${seed}",
    "${free.number}",
    "x${seed}",
    "${.kind}",
    "${nowhere}",
    "${rates.${which}}",
    "${oc.env:HOME}",
]
BROKEN = ["1,2", "range(1,3)", "choice(a,b)", "[1", "a=b=", "${", "'x", "{a", "glob(*)", "interval(0,1)", "]"]
LEAVES = words(
    r"""
    seed name loss.beta loss.kind loss.smoothing loss.reference free.number free.text free.flag free.nothing
    free.of_seed free.table.x free.table.y.z chain.a chain.b chain.relative.deep which rates.adamw rates.rmsprop
    selected home label limits.whole limits.real limits.on limits.text limits.maybe limits.must limits.color
    limits.file limits.either limits.of_seed limits.text_of_seed limits.named.one limits.by_color.red
    sealed.value model.name model.width model.shape.layers optimizer.lr optimizer.decay optimizer.alpha
    optimizer.schedule.warmup optimizer.schedule.kind data.rows data.schedule.warmup data.inner.number
    stores.main.host stores.spare.host stores.spare.port groups.nested.value groups.nested.inner.tag
    """
)
OTHERS = words(
    r"""
    free limits limits.many limits.many.0 limits.many[1] limits.named limits.named.two limits.by_color.blue
    free.items free.items.0 free.table free.table[x] 'free.text' chain chain.relative optimizer optimizer.betas
    optimizer.betas.1 optimizer.schedule data data.schedule copy copy.lr listed listed.0 listed.2.deep keys
    values values.0 other other.whole sealed nowhere free.nowhere limits.nowhere free.number.deep stores.main
    model hydra hydra.run.dir hydra.job.name hydra.nowhere hydra.verbose extra_key tracker model/nowhere
    nowhere/x model@pkg nowhere@pkg free.a-b free. .free
    """
)
GROUPS = words(
    r"""
    model=small model=large model=late model=nowhere optimizer=adamw optimizer=rmsprop optimizer=sgd data=text
    data=clock nested=first nested=second nested=chooser nested/inner=two nested/inner@groups.nested.inner=two
    data.inner=x nested/inner@data.inner=two store@stores.main=full store@stores.spare=lite store@stores.third=lite
    +store@stores.third=lite +store=lite store=lite tracker=file +tracker=file +extra=global ~optimizer
    ~model=small ~model=large ~data ~store@stores.spare ~tracker ~nowhere optimizer=[adamw,rmsprop]
    optimizer=null model=1 ++model=large hydra/job_logging=none hydra/job_logging=default hydra.searchpath=[]
    optimizer={lr:5} optimizer@opt2=adamw
    """
)

values = st.one_of(
    st.sampled_from(SCALARS), st.sampled_from(SCALARS), st.sampled_from(LISTS), st.sampled_from(INTERPOLATIONS)
)
plain_values = st.builds("{}={}".format, st.sampled_from(LEAVES), st.sampled_from(SCALARS))
sensible = st.sampled_from(
    words(
        r"""
    seed=1 seed=2 loss.beta=0.1 loss.beta=0.2 optimizer.lr=0.3 optimizer.lr=1e-3 model.width=8 free.number=4
    free.text=seed which=rmsprop rates.adamw=5 limits.whole=7 limits.must=1 limits.color=blue data.rows=9
    stores.main.host=h name=n
    """
    )
)
anything = st.builds(
    "{}{}={}".format, st.sampled_from(["", "", "", "+", "++"]), st.sampled_from(LEAVES + OTHERS), values
)
deletions = st.builds("~{}".format, st.sampled_from(LEAVES + OTHERS))
broken = st.builds("{}={}".format, st.sampled_from(LEAVES + OTHERS), st.sampled_from(BROKEN)) | st.sampled_from(BROKEN)
overrides = st.one_of(
    sensible,
    sensible,
    sensible,
    plain_values,
    plain_values,
    anything,
    st.sampled_from(GROUPS),
    st.sampled_from(GROUPS),
    st.one_of(deletions, broken, anything, anything),
)


@st.composite
def streams(draw: st.DrawFn) -> list[list[str]]:
    """Several points over a small set of overrides, most of them without the mistakes that end a compose early."""
    pool = draw(st.lists(overrides, min_size=3, max_size=8))
    common = [[], ["loss.beta=0.5"], ["loss.beta=0.5", "optimizer=rmsprop"]]
    point = st.builds(
        lambda head, tail: head + tail, st.sampled_from(common), st.lists(st.sampled_from(pool), max_size=5)
    )
    return draw(st.lists(point, min_size=10, max_size=12))


# Without shrinking: it composes thousands of points with Hydra, and one example is small enough to read.
@settings(
    max_examples=examples(8),
    suppress_health_check=list(HealthCheck),
    phases=set(Phase) - {Phase.shrink, Phase.explain},
)
@given(streams())
def test_streams_equal_hydra(points: list[list[str]]) -> None:
    """A fresh Composer over a stream of about ten points."""
    assert_like_hydra(Composer(CONFIG_DIR, pure_resolvers=PURE), points)


def test_one_composer_over_many_points() -> None:
    """A Composer that lives long: many points of up to six overrides that mostly make sense, in one stream."""
    chosen = random.Random(0)
    good = [f"{key}={value}" for key in ("seed", "free.number", "rates.adamw", "data.rows") for value in (1, 2)]
    good += ["loss.beta=0.1", "loss.beta=1e-2", "optimizer.lr=0.1", "which=rmsprop", "which=adamw", "free.text=seed"]
    good += [
        "optimizer=rmsprop",
        "model=large",
        "model=late",
        "nested=second",
        "nested=chooser",
        "tracker=null",
        "limits.whole=abc",
        "label=x",
    ]
    good += [
        "limits.many=[1]",
        "+fresh=1",
        "~free.flag",
        "limits.of_seed=4",
        "name=null",
        "name=text",
        "store@stores.main=full",
    ]
    points = [["loss.beta=0.5", *chosen.sample(good, chosen.randint(0, 6))] for _ in range(100)]
    composer = Composer(CONFIG_DIR, pure_resolvers=PURE)
    assert_like_hydra(composer, points)
    assert composer.fast > 50
