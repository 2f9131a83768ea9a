"""Why a run's process ended: every rule of the table, and which of two that hold is the one that counts."""

from __future__ import annotations

import errno
import os

import pytest

from gpt_opt.dispatch.slot.diagnose import RULES, End, diagnose
from gpt_opt.records.attempts import CAUSES
from gpt_opt.records.planned_configs import CHANGED
from gpt_opt.records.state import RunState, State

FULL = os.strerror(errno.ENOSPC)
REFUSED = f"- run 0123456789ab: {CHANGED}, but seed was 0 and is 1"
"""As run_hydra.py says it."""


def state(kind: State, **error: str) -> RunState:
    return RunState("0123456789ab", kind, error=error or None)


def failed(code: int = 1, **error: str) -> End:
    return End(code, state=state(State.FAILED, **error), is_own=True)


RUNNING, INTERRUPTED = state(State.RUNNING), state(State.INTERRUPTED)

ENDS = {
    "unreadable state": (End(0, unreadable="state.json is torn"), "exception", "state.json is torn"),
    "a result": (End(0, is_done=True), "completed", ""),
    "a result and a late kill": (End(-9, is_done=True), "completed", ""),
    "GPU memory": (failed(type="GPUOutOfMemoryError", message="full\nlower it"), "out_of_gpu_memory", None),
    "CUDA's words": (failed(type="RuntimeError", message="CUDA out of memory."), "out_of_gpu_memory", None),
    "MemoryError": (failed(type="MemoryError"), "out_of_memory", "MemoryError"),
    "torch's words": (failed(type="RuntimeError", message="can't allocate memory"), "out_of_memory", None),
    "full disk": (failed(type="DiskFull", message=f"{FULL}: x"), "no_space", f"DiskFull: {FULL}: x"),
    "full disk in a traceback": (failed(type="OSError", message="x", traceback=f"...{FULL}"), "no_space", "OSError: x"),
    "bad data": (failed(2, type="DataError", message="1 problem:\n - x"), "request", "DataError: x"),
    "an exception": (failed(type="ValueError", message="no"), "exception", "ValueError: no"),
    "an exception when asked to stop": (
        End(1, state=state(State.FAILED, type="ValueError", message="no"), is_own=True, stop_requested=True),
        "exception",
        "ValueError: no",
    ),
    "a failure of an attempt before": (
        End(1, stderr_tail=["Traceback", "KeyError: 1"], state=state(State.FAILED, type="ValueError")),
        "exception",
        "KeyError: 1",
    ),
    "another config": (End(2, stderr_tail=["1 problem:", REFUSED, "put it back"]), "changed_config", REFUSED[20:]),
    "another config under torchrun": (
        End(1, stderr_tail=[REFUSED, "torch...ChildFailedError", "==="], processes=2),
        "changed_config",
        REFUSED[20:],
    ),
    "a wrong request": (
        End(2, stderr_tail=["1 problem:", "- seed: no", "set another"], state=state(State.PENDING)),
        "request",
        "seed: no",
    ),
    "cancelled": (End(1, state=INTERRUPTED, stop_requested=True, is_cancelled=True), "cancelled", ""),
    "asked to stop": (End(-15, state=INTERRUPTED, stop_requested=True), "stopped", ""),
    "stopped by a signal of its own": (End(1, state=INTERRUPTED, is_own=True, released=True), "stopped", ""),
    "one of two processes gone": (
        End(1, state=INTERRUPTED, is_own=True, released=True, processes=2),
        "killed",
        "a process of the run",
    ),
    "held by another": (End(1, stderr_tail=["error: held"], state=RUNNING), "held", "error: held"),
    "killed by the kernel": (End(-9, state=INTERRUPTED, oom_kills=1), "out_of_memory", None),
    "a worker killed by the kernel": (End(1, state=INTERRUPTED, oom_kills=2), "out_of_memory", None),
    "killed by somebody": (End(-9, state=INTERRUPTED, is_own=True), "killed", "signal 9"),
    "killed below a shell": (End(137, state=INTERRUPTED), "killed", "signal 9"),
    "a crash": (End(-11, state=INTERRUPTED, oom_kills=1), "killed", "signal 11"),
    "no room for a state": (
        End(1, stderr_tail=[f"OSError: {FULL}", "x"], state=state(State.PENDING)),
        "no_space",
        None,
    ),
    "no words at all": (End(1, state=state(State.PENDING)), "exception", ""),
    "long words": (End(1, stderr_tail=["x" * 1000], state=state(State.PENDING)), "exception", "x" * 300),
}


@pytest.mark.parametrize("name", ENDS)
def test_an_end_has_one_cause(name: str) -> None:
    end, cause, message = ENDS[name]
    found = diagnose(end)
    assert found[0] == cause
    assert message is None or found[1] == message


def test_every_rule_decides_an_end_and_names_a_cause() -> None:
    deciding = [next(rule for rule in RULES if rule.holds(end)) for end, _, _ in ENDS.values()]
    assert [rule for rule in RULES if rule not in deciding] == []
    assert {rule.cause for rule in RULES} <= set(CAUSES)
