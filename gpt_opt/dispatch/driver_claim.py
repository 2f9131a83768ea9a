"""Who drives a sweep: one driver at a time, by a claim on the sweep directory."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from gpt_opt.dispatch import slurm
from gpt_opt.records.claim import STALE_AFTER_S, Claim, ClaimInfo, RunHeld, acquire, read_claim
from gpt_opt.records.sweep_dir import Sweep

log = logging.getLogger(__name__)

POLL_S = 2.0
"""How often a driver looks whether what it waits for is free."""


def claim_sweep(sweep: Sweep, is_stopped: Callable[[], bool]) -> Claim | None:
    """Claims a part of a sweep; waits for the claim of a driver that Slurm knows to have ended to become stale.

    Args:
        sweep: The part.
        is_stopped: Whether to stop waiting; asked every `POLL_S`.

    Returns:
        The claim, or None if it was stopped before it had one.

    Raises:
        RunHeld: If a driver that is alive has it.
    """
    deadline, is_logged = time.monotonic() + STALE_AFTER_S + 2 * POLL_S, False
    while not is_stopped():
        try:
            return acquire(sweep.driver, is_shared=True)
        except RunHeld as held:
            if is_driven(sweep) or time.monotonic() > deadline:
                raise
            if not is_logged:
                log.info("waiting: the job of that driver has ended, but %s", held)
            is_logged = True
            time.sleep(POLL_S)
    return None


def is_driven(sweep: Sweep) -> bool:
    """Returns whether a driver holds the sweep, or a part of it, that, as far as Slurm knows, is alive."""
    return any(_is_held(read_claim(part.driver)) for part in sweep.parts())


def _is_held(claim: ClaimInfo | None) -> bool:
    if claim is None or claim.is_over():
        return False
    if claim.job is None or not slurm.is_installed():
        return True
    try:
        starts = slurm.states([claim.job.job]).get(claim.job.job, [])
    except slurm.SlurmError:
        return True
    return not starts or starts[-1].alive
