"""Where things are kept that can be made anew at any time: tokens, fingerprints of files."""

from __future__ import annotations

import logging
import os
from pathlib import Path

log = logging.getLogger(__name__)

VARIABLE = "GPTOPT_CACHE"
"""Environment variable that names the folder of the cache; empty switches the cache off."""


def cache_folder(kind: str) -> Path | None:
    """Returns the folder `kind` of the cache: below $GPTOPT_CACHE, or gpt-opt in $XDG_CACHE_HOME or ~/.cache.

    None when the cache is off, or is to be in the home directory of a user who has none.
    """
    chosen = os.environ.get(VARIABLE)
    if chosen == "":
        return None
    base = chosen or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "gpt-opt")
    try:
        return Path(base).expanduser() / kind
    except RuntimeError as error:
        log.warning("%s are not cached: %s; %s=FOLDER says where to", kind, error, VARIABLE)
        return None
