"""The verbs that read runs are tested on the run directories that `analysis` is tested on."""

from tests.analysis.conftest import make_run, outputs

__all__ = ["make_run", "outputs"]
