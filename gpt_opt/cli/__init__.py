"""The command `gptopt`: `app` runs it and lists the modules of its verbs, `views` has what they print."""

import sys

try:
    from gpt_opt.cli.app import main
except KeyboardInterrupt:  # before there is a `main` that could say so
    sys.exit(130)

__all__ = ["main"]
