"""From a frame of runs to an answer: what counts, what is best, what is said of it."""

from __future__ import annotations

import math

import pandas as pd
import pytest
from scipy import stats

from analysis.answers import answer, fates, settings
from analysis.answers.fates import DIVERGED
from analysis.answers.words import remarks
from gpt_opt.errors import GptOptError, RequestError
from gpt_opt.records.state import State
from tests.analysis.answers.frames import ACCURACY, frame, grid, run

CLEAR = {0.05: [0.70, 0.72, 0.71, 0.73], 0.1: [0.80, 0.82, 0.815, 0.83], 0.3: [0.60, 0.63, 0.62, 0.64]}
UNCLEAR = {0.1: [0.80, 0.84, 0.82], 0.3: [0.81, 0.80, 0.835]}


def test_the_best_setting_is_distinguishable_from_the_next() -> None:
    found = answer(grid(CLEAR))
    assert found.best is not None
    assert found.comparison is not None
    assert found.metric == ACCURACY
    assert [item.values["loss.beta"] for item in found.settings] == [0.1, 0.05, 0.3]
    assert found.best.n == 4
    low, high = stats.t.interval(0.95, 3, loc=0.81625, scale=stats.sem(CLEAR[0.1]))
    assert (found.best.mean, found.best.low, found.best.high) == pytest.approx((0.81625, low, high))
    against = [stats.ttest_rel(CLEAR[a], CLEAR[b]).pvalue for a, b in ((0.1, 0.05), (0.1, 0.3), (0.05, 0.3))]
    rank = sorted(against).index(against[0])
    assert found.comparison.tests == 3
    assert [pair.test for pair in found.comparison.pairs] == ["paired t-test"] * 2
    assert found.comparison.pairs[0].p >= against[0] * (3 - rank)
    assert found.comparison.distinguishable
    assert found.sentence().startswith(
        "beta=0.1 has the best eval accuracy, 81.6% [79.6%, 83.6%] over 4 seeds, disting"
    )
    assert (
        "paired t-test on shared seeds, distinguishable at p up to 0.04, assuming that the differences"
        in remarks(found)[0]
    )
    assert "Holm's for all 3 pairs of settings, as the best was chosen by its values" in remarks(found)[0]


def test_a_best_setting_that_may_be_luck() -> None:
    found = answer(grid(UNCLEAR))
    assert found.comparison is not None
    assert found.comparison.next is not None
    assert found.comparison.distinguishable is False
    assert found.comparison.next.p == pytest.approx(stats.ttest_rel(*UNCLEAR.values()).pvalue)
    assert "but cannot be told from the next, beta=0.3 (difference 0.5 points, p = 0.80)" in found.sentence()
    assert (
        "the two may well be equal; were they not, it would take about 313 seeds a setting to tell" in found.sentence()
    )
    assert [pair.other for pair in found.comparison.pairs if not pair.distinguishable] == [found.settings[1]]


def test_how_many_seeds_would_tell() -> None:
    found = answer(grid({0.1: [0.80, 0.84, 0.82], 0.3: [0.79, 0.80, 0.815]}))
    assert (
        "p = 0.24): not enough seeds; were the difference what it seems, about 12 a setting would" in found.sentence()
    )


def test_one_seed_is_not_enough() -> None:
    found = answer(grid({0.1: [0.8], 0.3: [0.9]}))
    assert found.comparison is not None
    assert found.comparison.distinguishable is None
    assert found.best is not None
    assert math.isnan(found.best.low)
    assert found.comparison.method == ""
    assert "not enough seeds to tell it from the next, beta=0.1 at 80.0%: at least 2 a setting" in found.sentence()


def test_loss_is_best_where_it_is_least() -> None:
    found = answer(grid({0.1: [0.5, 0.6], 0.3: [0.4, 0.45]}, "eval/loss"))
    assert found.metric == "eval/loss"
    assert not found.greater
    assert found.best is not None
    assert found.best.values == {"loss.beta": 0.3}
    assert any(line.startswith("note: loss.beta changes what eval loss measures") for line in remarks(found))


def test_runs_without_a_value_are_counted_and_never_averaged() -> None:
    blown = f"{DIVERGED}: loss is NaN at step 12"
    runs = frame(
        *(run({"loss.beta": 0.1, "seed": seed}, 0.8 + seed / 100) for seed in range(2)),
        run({"loss.beta": 0.1, "seed": 2}, 0.1, state=State.RUNNING),
        run({"loss.beta": 0.1, "seed": 3}, state=State.PENDING),
        run({"loss.beta": 0.1, "seed": 4}, 0.2, state=State.FAILED, error="RuntimeError: CUDA out of memory"),
        run({"loss.beta": 0.1, "seed": 5}, 0.3, state=State.FAILED, error=blown),
        run({"loss.beta": 0.1, "seed": 6}, math.inf),
        run({"loss.beta": 0.1, "seed": 7}, math.nan),
        run({"loss.beta": 0.3, "seed": 0}, 0.5),
    )
    found = answer(runs)
    first = next(item for item in found.settings if item.values["loss.beta"] == 0.1)
    assert first.mean == pytest.approx(0.805)
    counts = (first.n, first.unfinished, first.failed, first.diverged, first.missing, first.planned)
    assert counts == (2, 2, 1, 2, 1, 8)
    assert first.without_value() == "1 failed, 2 diverged, 2 unfinished, 1 without a value"
    assert found.counts == {"counted": 3, "failed": 1, "diverged": 2, "unfinished": 2, "missing": 1}
    assert "3 of 9 runs are in the means; the others are not: 1 failed, 2 diverged, 2 unfinished" in remarks(found)[0]
    assert found.best is not first, "a setting of which runs diverge is not the best, whatever the others have"
    told = "beta=0.3 has the best eval accuracy, 50.0% over 1 seed; not enough seeds"
    assert found.sentence().startswith(told)
    assert found.sentence().endswith(" (beta=0.1 has a better mean, 80.5%, but of its runs 2 of 8 diverged)")


def test_an_evaluation_to_nan_is_a_divergence_and_one_that_measured_something_else_is_not() -> None:
    runs = frame(
        run({"loss.name": "dpo", "seed": 0}, 0.8),
        run({"loss.name": "dpo", "seed": 1}, 8.0, "eval/seconds"),
        run({"loss.name": "sft", "seed": 0}, 8.0, "eval/seconds"),
    )
    assert fates(runs, ACCURACY).tolist() == ["counted", "diverged", "missing"]


def test_no_run_has_a_value() -> None:
    states = (State.FAILED, State.FAILED, State.RUNNING)
    found = answer(frame(*(run({"loss.beta": 0.1, "seed": seed}, state=state) for seed, state in enumerate(states))))
    assert found.best is None
    assert found.sentence() == "no run has a final eval loss yet: 2 failed, 1 unfinished"
    assert found.table()["n"].tolist() == [0]
    assert remarks(found) == ["0 of 3 runs are in the means; the others are not: 2 failed, 1 unfinished"]


def test_one_run_and_none() -> None:
    alone = answer(frame(run({"loss.beta": 0.1, "seed": 0}, 0.8)))
    assert alone.sentence() == "the only setting: eval accuracy 80.0% over 1 seed"
    assert alone.comparison is not None
    assert alone.comparison.next is None
    none = answer(frame())
    assert none.sentence() == "there are no runs"
    assert none.table().empty


def test_a_tie() -> None:
    found = answer(grid({0.1: [0.75, 0.5], 0.3: [0.5, 0.75]}))
    assert found.sentence().startswith("beta=0.1 and beta=0.3 have the same best eval accuracy")
    assert found.edges == ()


def test_a_difference_that_is_the_same_for_every_seed_says_nothing_of_chance() -> None:
    found = answer(grid({0.1: [0.75, 0.5], 0.3: [0.5, 0.25]}))
    assert found.comparison is not None
    assert found.comparison.distinguishable is False
    assert "the difference is the same in all seeds, so chance cannot be estimated" in found.sentence()


def test_settings_of_which_other_seeds_are_done_are_ranked_as_if_all_had_all() -> None:
    """Seed 2 is a good one, and 0.1 has not run it yet."""
    runs = grid({0.1: [0.60, 0.62, None], 0.2: [0.50, 0.515, 0.90], 0.3: [None, 0.55, None]})
    found = answer(runs)
    assert [item.values["loss.beta"] for item in found.settings] == [0.1, 0.3, 0.2]
    assert found.settings[2].mean == pytest.approx(0.6383, abs=1e-4), "what is shown is the mean of what there is"
    assert found.comparison is not None
    assert found.comparison.is_adjusted
    assert found.comparison.pairs[0].difference == pytest.approx(0.07), "over the one seed that both have"
    assert any("not all settings have the same seeds so far" in line for line in remarks(found))
    assert answer(grid({0.1: [0.5, 0.6], 0.2: [0.7, 0.8]})).comparison.is_adjusted is False  # type: ignore[union-attr]


def test_a_test_that_says_the_opposite_of_the_ranking_distinguishes_nothing() -> None:
    """Between 0.1 and 0.3 there is one seed in common only; the others are bad ones and good ones."""
    runs = grid(
        {0.1: [0.10, 0.11, 0.52, None, None], 0.2: [0.0, 0.01, 0.4, 0.8, 0.79], 0.3: [None, None, 0.5, 0.9, 0.89]}
    )
    found = answer(runs).comparison
    assert found is not None
    assert found.best.values == {"loss.beta": 0.1}
    pair = next(pair for pair in found.pairs if pair.other.values == {"loss.beta": 0.3})
    assert (pair.test, pair.agrees, pair.distinguishable) == ("Welch's t-test", False, False)
    assert "in the 3 seeds compared that one is better by 52 points" in answer(runs).sentence()
    assert answer(runs).sentence().endswith(": run the same seeds in both")


def test_seeds_that_are_not_shared() -> None:
    runs = frame(
        *(run({"loss.beta": 0.1, "seed": seed}, 0.8 + seed / 100) for seed in range(3)),
        *(run({"loss.beta": 0.3, "seed": seed}, 0.5 + seed / 1000) for seed in range(7, 11)),
    )
    found = answer(runs).comparison
    assert found is not None
    assert found.next is not None
    assert (found.next.test, found.next.n) == ("Welch's t-test", 3)
    statistic = stats.ttest_ind([0.8, 0.81, 0.82], [0.507, 0.508, 0.509, 0.51], equal_var=False).statistic
    assert found.next.p == pytest.approx(2 * stats.t.sf(statistic, df=2))  # the smaller setting has three
    assert found.method.startswith("Welch's t-test with the degrees of freedom of the smaller setting, distinguishable")
    assert "the values of a setting are independent and about normally distributed" in found.method


def _three_keys() -> pd.DataFrame:
    return frame(
        *(
            run(
                {"loss.beta": beta, "optimizer.optimizer_params.lr": lr, "seed": seed},
                0.5 + beta + 10 * lr + seed / 100,
            )
            for beta in (0.1, 0.3)
            for lr in (0.001, 0.002)
            for seed in (0, 1)
        )
    )


def test_what_is_asked_for_by_name_and_what_is_averaged_over() -> None:
    found = answer(_three_keys(), "eval/accuracy", ["beta"])
    assert found.by == ("loss.beta",)
    assert found.averaged == ("optimizer.optimizer_params.lr",)
    assert [item.n for item in found.settings] == [4, 4]
    assert "each setting is the mean over optimizer.optimizer_params.lr too, which vary within it" in remarks(found)
    by_seed = answer(_three_keys(), by=["seed"], over="loss.beta")
    assert by_seed.over == "loss.beta"
    assert by_seed.sentence().startswith("seed=1 has the best eval accuracy, 72.5%")
    assert "over 4 runs" in by_seed.sentence()


def test_a_percentage_has_no_interval_beyond_all() -> None:
    best = answer(grid({0.1: [0.99, 0.8], 0.3: [0.1, 0.3]})).best
    assert best is not None
    assert (best.low, best.high) == (0.0, 1.0)
    loss = answer(grid({0.1: [0.1, 0.9]}, "eval/loss")).best
    assert loss is not None
    assert loss.low < 0


def test_values_of_every_kind_make_settings() -> None:
    rows = [
        run({"lora.target_modules": target, "data.dataset.subset": subset, "seed": 0}, value)
        for target, subset, value in ((["q", "v"], None, 0.5), (["q", "v"], "a|b", 0.6), (["q"], None, 0.7))
    ]
    found = settings(frame(*rows), ACCURACY)
    assert [item.label for item in found] == [
        'target_modules=["q", "v"], subset=-',
        'target_modules=["q", "v"], subset=a|b',
        'target_modules=["q"], subset=-',
    ]
    assert found[2].against(found[0]) == 'target_modules=["q"]'


def test_runs_that_are_alike_but_for_what_was_not_asked_keep_their_values() -> None:
    runs = pd.concat([grid({0.1: [0.5, 0.6]}), grid({0.1: [0.7, 0.8]})], ignore_index=True)
    item = settings(runs, ACCURACY, ["loss.beta"])[0]
    assert sorted(item.samples.values()) == [0.5, 0.6, 0.7, 0.8]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"metric": "acuracy"}, r"'acuracy'\n      did you mean eval/rewards/accuracies\? they have"),
        ({"by": ["bta"]}, "the runs have no bta; what varies between them is loss.beta, seed"),
        ({"over": "sed"}, "the runs have no sed"),
        ({"by": ["seed"]}, "must not be among the keys that are compared"),
        ({"stage": "dpo"}, "must be a stage of the sweep, but is 'dpo'"),
        ({"metric": "learning_rate"}, "none is known of learning_rate; add --goal minimize"),
    ],
)
def test_wrong_requests(arguments: dict[str, str], message: str) -> None:
    with pytest.raises(GptOptError, match=message):
        answer(grid(CLEAR), **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "name", ["eval/accuracy", "accuracy", "eval accuracy", "accuracies", "eval-rewards-accuracies", "Eval/Accuracy"]
)
def test_a_metric_by_its_label(name: str) -> None:
    runs = grid(CLEAR).assign(**{"eval/loss": 0.5, "loss": 0.4})
    assert answer(runs, name).metric == ACCURACY


def test_a_metric_that_the_runs_have_under_both_names() -> None:
    runs = grid(CLEAR).assign(**{"rewards/accuracies": 0.9, "my/own": 0.1})
    assert answer(runs, "accuracy").metric == ACCURACY
    assert answer(runs, "rewards/accuracies").metric == "rewards/accuracies"
    assert answer(runs, "train accuracy").metric == "rewards/accuracies"
    assert answer(runs, "own", goal="maximize").metric == "my/own"
    with pytest.raises(RequestError, match="they have"):
        answer(runs, "nothing like it")


def test_a_metric_of_which_no_run_has_a_value() -> None:
    found = answer(grid(CLEAR), "eval/perplexity")
    assert found.best is None
    assert found.sentence() == "no run has a final eval perplexity: 12 COMPLETED without a value of it"
    assert f"the runs have no eval/perplexity: they have {ACCURACY}" in remarks(found)


def test_a_mistyped_metric_of_a_sweep_is_told_with_the_one_that_is_meant() -> None:
    found = answer(grid(CLEAR), of_sweep={"name": "eval/rewards/acuracies", "goal": "maximize"})
    assert f"the runs have no eval/rewards/acuracies: did you mean {ACCURACY}? they have {ACCURACY}" in remarks(found)


def test_many_settings_that_may_be_as_good() -> None:
    values = {beta: [0.8 + beta / 1000, 0.7 - beta / 900, 0.75 + beta / 700] for beta in range(1, 9)}
    found = answer(grid({float(beta): list(item) for beta, item in values.items()}))
    line = next(line for line in remarks(found) if "cannot be told from the best" in line)
    assert line.startswith("7 of 7 other settings cannot be told from the best: beta=7; beta=6;")
    assert line.endswith("; and 2 more")


def test_the_table_has_everything_unrounded() -> None:
    runs = frame(
        *(run({"loss.beta": 0.1, "seed": seed}, 0.8 + seed / 1e6, time_s=50.0) for seed in range(3)),
        run({"loss.beta": 0.3, "seed": 0}, 0.7, time_s=20.0),
        run({"loss.beta": 1.0, "seed": 0}, state=State.FAILED, error="RuntimeError: x"),
    )
    table = answer(runs).table()
    assert table["loss.beta"].tolist() == [0.1, 0.3, 1.0]
    assert table["mean"].tolist()[:2] == [pytest.approx(0.800001, abs=1e-12), 0.7]
    assert table["n"].tolist() == [3, 1, 0]
    assert table["failed"].tolist() == [0, 0, 1]
    assert table["time_s"].tolist()[:2] == [50.0, 20.0]
    assert table["on_front"].tolist() == [True, True, False]
    assert table["distinguishable"].isna().all()
