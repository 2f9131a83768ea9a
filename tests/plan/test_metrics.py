"""Metrics that no run of a plan has, where the application does not say which ones its runs have."""

from __future__ import annotations

from gpt_opt.plan.metrics import RunMetrics, missing_metric
from gpt_opt.records.metrics import KnownMetrics

NEW = RunMetrics(KnownMetrics())
DONE = RunMetrics(KnownMetrics(), frozenset({"val/loss", "val/acc"}))


def test_runs_of_which_nothing_is_known_may_have_any() -> None:
    assert missing_metric("val/los", [NEW, NEW], decides=True) is None
    assert missing_metric("val/los", [], decides=True) is None


def test_finished_runs_say_what_others_will_have() -> None:
    assert missing_metric("val/acc", [NEW, DONE], decides=True) is None
    shown, deciding, decided = (
        missing_metric("val/los", runs, decides)
        for runs, decides in (([NEW, DONE], False), ([NEW, DONE], True), ([DONE, DONE], True))
    )
    assert shown is not None
    assert shown == deciding, "the new one may have it, as a script that was edited since gives it"
    assert not shown.certain
    assert shown.doubt == "no run is known to have 'val/los'; unless your code logs it, did you mean val/loss?"
    assert decided is not None
    assert decided.certain
    assert decided.message == "must be a metric of the runs, but none of the 2 runs that are done has 'val/los'"
    without = missing_metric("val/los", [RunMetrics(KnownMetrics(), frozenset())], decides=True)
    assert without is not None
    assert (without.certain, without.fix) == (True, "")


def test_a_run_whose_own_code_may_log_more_is_no_reason_to_refuse() -> None:
    known = RunMetrics(KnownMetrics(frozenset({"eval/loss", "eval/kl"}), complete=True))
    done, own = RunMetrics(known.expected, known.names), RunMetrics(KnownMetrics(known.names))
    for runs, certain in (([known, done], True), ([own, done], False), ([own, known], False)):
        missing = missing_metric("kl", runs, decides=True)
        assert missing is not None
        assert (missing.certain, missing.fix) == (certain, "did you mean eval/kl?")
