"""The verb `plan`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from gpt_opt.errors import RequestError

ROOT = Path(__file__).resolve().parent.parent.parent
"""The repository."""


def add_verbs(verbs: Any) -> None:
    """Adds the verb to the subparsers `verbs`."""
    plan = verbs.add_parser("plan", help="check every point of a sweep file and say what would run; writes nothing")
    plan.add_argument("file", type=Path, nargs="?", help="the sweep file, for example params/beta_sweep.json")
    plan.add_argument("overrides", nargs="*", help="Hydra overrides for every point, applied last: seed=1")
    plan.add_argument(
        "--slots",
        type=int,
        default=1,
        metavar="N",
        help="runs of one shape at a time, for the cost estimate (default: 1)",
    )
    output = plan.add_mutually_exclusive_group()
    output.add_argument("--json", action="store_true", help="print one JSON document and nothing else")
    output.add_argument(
        "--overrides", action="store_true", dest="lines", help="print the override strings, a run a line"
    )
    output.add_argument("--explain", type=int, metavar="INDEX", help="say why this run is not done already")
    output.add_argument("--schema", action="store_true", help="print the JSON Schema of sweep files, for editors")
    plan.set_defaults(run=_plan, parser=plan)


def _plan(options: argparse.Namespace) -> None:
    if options.schema:
        from gpt_opt.sweep import schema

        print(json.dumps(schema(), indent=2))
        return
    if options.file is None:
        options.parser.error("the sweep file is missing, for example: gptopt plan params/beta_sweep.json")
    if options.slots < 1:
        options.parser.error(f"--slots must be at least 1, but is {options.slots}")
    from gpt_opt.plan import show
    from gpt_opt.plan.diff import nearest_run
    from gpt_opt.plan.planner import Planner
    from gpt_opt.table import terminal_width

    fill_registries()
    planner = Planner(ROOT / "hydra_conf")
    try:
        plan = planner.plan(options.file, options.overrides, options.slots)
    except RequestError as error:
        if options.json:
            problems = [{"where": item.where, "message": item.message, "fix": item.fix} for item in error.problems]
            print(json.dumps({"sweep": options.file.stem, "errors": problems, "items": []}, indent=2))
        raise
    if options.json:
        print(json.dumps(show.as_record(plan), indent=2))
    elif options.lines:
        print(show.override_lines(plan))
    elif options.explain is not None:
        if not 0 <= options.explain < len(plan.runs):
            options.parser.error(f"--explain takes the index of a run, 0 to {len(plan.runs) - 1}: {options.explain}")
        run = plan.runs[options.explain]
        print(show.explanation(run, nearest_run(planner.config(run.overrides))))
    else:
        print(show.as_text(plan, terminal_width(sys.stdout)))


def fill_registries() -> None:
    """Makes our schemas and resolvers known to Hydra, as composing a config needs them."""
    from gpt_opt.config.schema import register
    from gpt_opt.run.resolvers import register_resolvers

    register()
    register_resolvers()
