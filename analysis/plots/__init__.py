"""Figures of a sweep, by matplotlib: each function takes frames of runs and metrics and returns a figure.

They say the same in colour, in grey and to those who see few colours: lines differ in lightness, style and marker. What
cannot be drawn (runs that failed, diverged, or are not finished) is counted below the panels. `python -m
analysis.plots` saves them all.
"""

from analysis.plots.cells import heat_map
from analysis.plots.coordinates import parallel
from analysis.plots.learning import curves
from analysis.plots.optimum import sensitivity
from analysis.plots.stages import pipeline
from analysis.plots.style import NothingToPlot, save_figure
from analysis.plots.swept import parameter
from analysis.plots.trade_off import frontier

__all__ = [
    "NothingToPlot",
    "curves",
    "frontier",
    "heat_map",
    "parallel",
    "parameter",
    "pipeline",
    "save_figure",
    "sensitivity",
]
