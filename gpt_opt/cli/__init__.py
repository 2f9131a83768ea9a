"""The command `gptopt`: `app` runs it and lists the modules of its verbs, `views` has what they print."""

from gpt_opt.cli.app import main

__all__ = ["main"]
