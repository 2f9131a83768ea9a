"""How many examples a property is tested with."""

from __future__ import annotations

import os


def examples(usual: int) -> int:
    """Returns GPTOPT_TEST_EXAMPLES, for a search that may take hours; by default what the suite has time for."""
    return int(os.environ.get("GPTOPT_TEST_EXAMPLES", usual))
