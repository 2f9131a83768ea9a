"""What people read of a figure, and whether they can: texts that do not overlap and lie inside."""

from __future__ import annotations

from itertools import combinations

from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.text import Text


def notes(figure: Figure) -> list[str]:
    """Returns the texts below the panels."""
    legends = [child for child in figure.get_children() if isinstance(child, Legend)]
    return [text.get_text() for text in legends[-1].get_texts()] if legends else []


def shown_texts(figure: Figure) -> list[Text]:
    """Returns the texts that are drawn, once they have their places."""
    figure.draw_without_rendering()
    hidden = {label for axes in figure.axes if not axes.axison for axis in (axes.xaxis, axes.yaxis)
              for label in axis.findobj(Text)}  # fmt: skip
    outside = {
        label
        for axes in figure.axes
        for axis, (low, high) in ((axes.xaxis, sorted(axes.get_xlim())), (axes.yaxis, sorted(axes.get_ylim())))
        for tick in axis.get_major_ticks()
        for label in (tick.label1, tick.label2)
        if not low <= tick.get_loc() <= high or not label.get_visible()
    }
    found = figure.findobj(lambda item: isinstance(item, Text) and item.get_visible() and item.get_text().strip())
    return [text for text in found if text not in hidden | outside]


def assert_readable(figure: Figure) -> None:
    """Asserts that no text overlaps another one or leaves the figure."""
    texts = shown_texts(figure)
    assert texts
    whole = figure.bbox.padded(1)
    for text in texts:
        box = text.get_window_extent()
        inside = box.x0 >= whole.x0 and box.x1 <= whole.x1 and box.y0 >= whole.y0 and box.y1 <= whole.y1
        assert inside, f"{text.get_text()!r} leaves the figure"
    level = [(text.get_text(), text.get_window_extent().padded(-1)) for text in texts if not text.get_rotation() % 90]
    for (one, first), (other, second) in combinations(level, 2):
        assert not first.overlaps(second), f"{one!r} overlaps {other!r}"
    # The boxes of slanted texts overlap where the texts do not.
    slanted = [text for text in texts if text.get_rotation() % 90]
    for one, other in combinations(slanted, 2):
        places = [text.get_transform().transform(text.get_position()) for text in (one, other)]
        apart = max(abs(places[0] - places[1]))
        assert apart > 8, f"{one.get_text()!r} lies on {other.get_text()!r}"
