"""Which application the working directory means."""

from __future__ import annotations

from pathlib import Path

from gpt_opt.app.app import App
from gpt_opt.app.settings import find_settings
from gpt_opt.app.toml_app import app_of


def app_here() -> App:
    """Returns the application with the nearest `gptopt.toml`; without one gpt-opt's own training.

    Raises:
        ConfigError: If that file is wrong.
    """
    if (settings := find_settings(Path.cwd())) is not None:
        return app_of(settings)
    from gpt_opt.own_app.app import own_app

    return own_app()
