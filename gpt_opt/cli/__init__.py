"""The command `gptopt`: `app` runs it; `plan`, `submit`, `sweep`, `results` and `doctor` hold its verbs."""

import sys

try:
    from gpt_opt.cli.app import main
except KeyboardInterrupt:  # before there is a `main` that could say so
    sys.exit(130)

__all__ = ["main"]
