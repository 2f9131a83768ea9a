"""The command `gptopt`: plan sweeps. The only module that knows every stage; errors become exit codes here."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from gpt_opt.errors import RequestError, exit_code

CONFIG_DIR = Path(__file__).resolve().parent.parent / "hydra_conf"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="gptopt", description="Sweeps of language-model training.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    plan = verbs.add_parser("plan", help="check every point of a sweep file and say what would run; writes nothing")
    plan.add_argument("file", type=Path, nargs="?", help="the sweep file, for example params/beta_sweep.json")
    plan.add_argument("overrides", nargs="*", help="Hydra overrides for every point, applied last: seed=1")
    plan.add_argument("--slots", type=int, default=1, metavar="N", help="runs at a time, for the price (default: 1)")
    output = plan.add_mutually_exclusive_group()
    output.add_argument("--json", action="store_true", help="print one JSON document and nothing else")
    output.add_argument(
        "--overrides", action="store_true", dest="lines", help="print the override strings, a run a line"
    )
    output.add_argument("--explain", type=int, metavar="INDEX", help="say why this run is not done already")
    output.add_argument("--schema", action="store_true", help="print the JSON Schema of sweep files, for editors")
    plan.set_defaults(run=_plan, parser=plan)
    return parser


def _plan(options: argparse.Namespace) -> None:
    if options.schema:
        from gpt_opt.sweep import schema

        print(json.dumps(schema(), indent=2))
        return
    if options.file is None:
        options.parser.error("the sweep file is missing, for example: gptopt plan params/beta_sweep.json")
    if options.slots < 1:
        options.parser.error(f"--slots must be at least 1, but is {options.slots}")
    from gpt_opt.config.schema import register
    from gpt_opt.plan import show
    from gpt_opt.plan.explain import nearest_run
    from gpt_opt.plan.planner import Planner
    from gpt_opt.run.directory import register_resolvers

    register()
    register_resolvers()
    planner = Planner(CONFIG_DIR)
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
        print(show.as_text(plan))


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs `gptopt`.

    Returns:
        The exit code: 0 fine, 1 a run failed, 2 the request was wrong.
    """
    options = _parser().parse_args(arguments)
    return exit_code(lambda: options.run(options))


if __name__ == "__main__":
    sys.exit(main())
