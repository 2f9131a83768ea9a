"""Labels of horizontal axes that do not run into each other."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox


def separate_ticks(figure: Figure) -> None:
    """Keeps the labels of horizontal axes apart: numbers that have no room are left out, words are turned."""
    figure.draw_without_rendering()
    for axes in figure.axes:
        labels = [label for label in axes.get_xticklabels() if label.get_visible() and label.get_text()]
        if not _overlap(labels):
            continue
        if all(_is_number(label.get_text()) for label in labels):
            _keep_apart(labels)
        else:
            axes.tick_params(axis="x", labelrotation=35)
            for label in axes.get_xticklabels():
                label.set(ha="right", rotation_mode="anchor")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _boxes(labels: Sequence[Text]) -> list[Bbox]:
    return [label.get_window_extent().padded(2) for label in labels]


def _overlap(labels: Sequence[Text]) -> bool:
    boxes = sorted(_boxes(labels), key=lambda box: float(box.x0))
    return any(first.x1 > second.x0 for first, second in pairwise(boxes))


def _keep_apart(labels: Sequence[Text]) -> None:
    """Hides labels that have no room; the first and the last ones stay."""
    ordered = sorted(zip(_boxes(labels), labels, strict=True), key=lambda pair: float(pair[0].x0))
    end, last = -np.inf, ordered[-1]
    for box, label in ordered[:-1]:
        if box.x0 < end or box.x1 > last[0].x0:
            label.set_visible(False)
        else:
            end = float(box.x1)
