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
    shown, deciding = (missing_metric("val/los", [NEW, DONE], decides) for decides in (False, True))
    assert shown is not None
    assert not shown.certain
    assert shown.doubt == "no run is known to have 'val/los'; unless your code logs it, did you mean val/loss?"
    assert deciding is not None
    assert deciding.certain
    assert deciding.message == "must be a metric of the runs, but the run that is done has no 'val/los'"
    without = missing_metric("val/los", [RunMetrics(KnownMetrics(), frozenset())], decides=True)
    assert without is not None
    assert (without.certain, without.fix) == (True, "")
