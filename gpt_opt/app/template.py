"""An application that was found -> the text of its `gptopt.toml`, with a comment for every key and every guess."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt_opt.app.argparse_flags import Flag
from gpt_opt.app.discover import Found
from gpt_opt.app.keys import LAST_CHECKPOINT, SOURCES, TABLES
from gpt_opt.app.look_at_code import CSV_FILE, CodeFacts
from gpt_opt.app.look_at_config import NO_RESULT, RESUME, ConfigFacts
from gpt_opt.app.settings import GRACE_S, RUN_DIR, plain_name

_WIDTH = 118

_HEAD = (
    "What gpt-opt must know of this application, as `gptopt init` found it in the code and the configs. Correct what it"
    " guessed wrong; `gptopt doctor` checks the file. A key behind # is not set; it shows the default or an example."
)
_LIGHTNING = frozenset({"lightning", "pytorch_lightning"})


@dataclass(frozen=True)
class Choice:
    """A value that was guessed.

    Attributes:
        value: The value; None where there is none to give.
        why: What speaks for it.
        needs: An override without which it is wrong; empty where none is.
    """

    value: Any
    why: str = ""
    needs: str = ""


_ENVIRONMENT = {"environment": Choice([], 'such as ["module load cuda", "export WANDB_MODE=offline"]')}
_RUN = {"dir": Choice(RUN_DIR), "grace_s": Choice(int(GRACE_S))}
_REPORT = "no logger was found: call gpt_opt.report(step=step, loss=loss) where it has them"


def template(app: Found) -> str:
    """Returns the text of a `gptopt.toml` for an application of Hydra."""
    source, resume, code = metrics_source(app.code, app.config), app.config.resume, app.code
    registers = app.registers or app.config_path is None
    warm = Choice(list(code.warm_imports))
    if code.keeps_from_forking:
        warm = Choice([], f"{code.keeps_from_forking[0]}, which no fork bears")
    sets = [item for item in code.sets_environment if not item.what.endswith("setup_root")]
    if sets and warm.value:
        warm = Choice([], f"{sets[0]}, which must come before {', '.join(code.warm_imports)}")
    way, program = ("script", app.file.as_posix()) if app.module is None else ("module", app.module)
    tables: dict[str, dict[str, Choice]] = {
        "app": {
            "name": Choice(plain_name(app.file.stem if app.module is None else app.module.rpartition(".")[2])),
            way: Choice(program),
            "config_path": Choice(app.config_path),
            "config_name": Choice(app.config_name or "config", "" if app.config_name else "@hydra.main names none"),
            "version_base": Choice(app.version_base),
            "registers": Choice(bool(registers), "; ".join(map(str, app.registers[:3]))),
            **_ENVIRONMENT,
            "warm_imports": warm,
        },
        "identity": {"exclude": Choice(["hydra", *app.config.exclude])},
        "run": _RUN,
        "resume": {
            "checkpoints": Choice(checkpoints(code, app.config)),
            "overrides": Choice([f"{resume}={LAST_CHECKPOINT}"] if resume else []),
        },
        "metrics": {
            "source": source,
            "files": Choice(SOURCES[source.value]),
        },
    }
    off = {("resume", key) for key in tables["resume"] if not resume} | {("metrics", "files")}
    return _text(tables, off, "" if resume else _no_resume(code))


def command_template(name: str, command: str, defaults: str, flags: Sequence[Flag], code: CodeFacts) -> str:
    """Returns the text of a `gptopt.toml` for a script that is not Hydra's; of its flags those that are known."""
    resume = resume_flag(flags)
    tables = {
        "app": {"name": Choice(name), "command": Choice(command), "defaults": Choice(defaults), **_ENVIRONMENT},
        "identity": {"exclude": Choice([flag.key for flag in flags if flag.key in NO_RESULT and not flag.is_output])},
        "run": _RUN,
        "resume": {
            "checkpoints": Choice(checkpoints(code, ConfigFacts())),
            "overrides": Choice([resume or "--resume", LAST_CHECKPOINT]),
        },
        "metrics": {"source": metrics_source(code, ConfigFacts())},
    }
    off = set() if resume else {("resume", "checkpoints"), ("resume", "overrides")}
    return _text(tables, off, "" if resume else _no_resume(code))


def resume_flag(flags: Sequence[Flag]) -> str | None:
    """Returns the argument that takes a checkpoint to go on from; None without one that may be left out."""
    options = {flag.key: flag.option for flag in flags if flag.option and flag.default is None}
    return next((options[name] for name in RESUME if name in options), None)


def metrics_source(code: CodeFacts, config: ConfigFacts) -> Choice:
    """Returns where the metrics of an application are to be read from, the surest first."""
    written = dict(code.logs)
    by_default = {logged.source: Choice(logged.source, logged.where) for logged in reversed(config.logs)}
    on_demand = {
        logged.source: Choice(
            logged.source, f"{logged.where} writes it where a run is given {logged.needs}", logged.needs
        )
        for logged in reversed(config.logs)
        if logged.needs
    }
    selected = {source: choice for source, choice in by_default.items() if source not in on_demand}
    in_code = {
        name: Choice("csv" if name == CSV_FILE else name, str(where))
        for name, where in written.items()
        if name not in on_demand  # what uses a logger may name it
    }
    if _LIGHTNING & set(code.warm_imports) and not config.logs and not written:
        in_code["tensorboard"] = Choice("tensorboard", "Lightning writes it unless it is given another logger")
    order: Sequence[tuple[dict[str, Choice], str]] = [
        *((in_code, "report"), (selected, "csv"), (selected, "tensorboard")),
        *((in_code, source) for source in ("csv", "tensorboard", "trainer_state")),
        *((on_demand, "csv"), (on_demand, "tensorboard"), (in_code, CSV_FILE)),
        *((found, "wandb") for found in (selected, in_code, on_demand)),
    ]
    return next((found[source] for found, source in order if source in found), Choice("report", _REPORT))


def checkpoints(code: CodeFacts, config: ConfigFacts) -> str:
    """Returns the likeliest glob of an application's checkpoints."""
    if config.checkpoints:
        return config.checkpoints
    if "trainer_state" in dict(code.logs):
        return "**/checkpoint-*"
    if _LIGHTNING & set(code.warm_imports):
        return "**/*.ckpt"
    return f"**/{Path(code.saves[0]).name}" if code.saves else "checkpoints/*"


_NO_RESUME = (
    "Without this table a run that was stopped starts anew in a clean directory. If the application can go on from a"
    " checkpoint, say here where it is and how it is told."
)


def _no_resume(code: CodeFacts) -> str:
    names = ", ".join(dict.fromkeys(Path(name).name for name in code.saves[:4]))
    return f"{_NO_RESUME} {f'Its code names {names}.' if names else ''}".rstrip()


def _text(tables: dict[str, dict[str, Choice]], off: set[tuple[str, str]], resume: str) -> str:
    lines = [*_comment(_HEAD)]
    for table, choices in tables.items():
        is_off = all((table, key) in off for key in choices)
        lines += ["", *(_comment(resume) if is_off else []), f"# [{table}]" if is_off else f"[{table}]"]
        for key, choice in choices.items():
            lines += _entry(table, key, choice, (table, key) in off)
    return "\n".join(lines) + "\n"


def _entry(table: str, key: str, choice: Choice, is_off: bool) -> Iterator[str]:
    if choice.value is None:
        return
    yield from _comment(TABLES[table][key].doc)
    yield from _comment(f"-> {choice.why}") if choice.why else ()
    yield f"{'# ' if is_off else ''}{key} = {_toml(choice.value)}"


def _toml(value: Any) -> str:
    """Returns a value as TOML, a long list with a line for each item."""
    text = json.dumps(value, ensure_ascii=False)
    if not isinstance(value, list) or len(text) < _WIDTH - 20:
        return text
    return "\n".join(["[", *(f"  {json.dumps(item, ensure_ascii=False)}," for item in value), "]"])


def _comment(text: str) -> list[str]:
    return [f"# {line}" for line in textwrap.wrap(text, _WIDTH - 2, break_long_words=False, break_on_hyphens=False)]
