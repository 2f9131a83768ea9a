"""What training programs log of themselves, read from its files as they grow: one module a kind of file.

Input: files of a run. Output: `Row`s in the order in which they were logged, under the names that the program logs.
Only the standard library is needed, not the packages that wrote the files. Next: `gpt_opt.app.metrics`, and
`analysis.foreign` for runs that gpt-opt did not start.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from gpt_opt.app.sources import csv_log, report, tensorboard, trainer_state, wandb
from gpt_opt.app.sources.row import Reader

READERS: Mapping[str, Callable[[str], Reader]] = {
    "report": lambda step: report.Report(),
    "tensorboard": lambda step: tensorboard.EventFile(),
    "csv": csv_log.CsvLog,
    "trainer_state": lambda step: trainer_state.TrainerState(),
    "wandb": wandb.WandbRecord,
}
"""A source of `gpt_opt.app.keys.SOURCES` to what makes a reader of one of its files, given the name of the step."""
