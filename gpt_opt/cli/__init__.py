"""The command `gptopt`: `app` runs it; `plan`, `submit`, `sweep`, `results` and `doctor` hold its verbs."""

from gpt_opt.cli.app import main

__all__ = ["main"]
