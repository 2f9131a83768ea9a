"""The report of a sweep: one HTML file that needs no network, with a table, figures, configs and how to do it again.

`gather` makes one JSON document of what run directories and a sweep directory hold, `page` puts it into the page, whose
own style and script (`page.css`, `page.js`) draw everything.
"""

from analysis.report.data import Source, gather
from analysis.report.page import page

__all__ = ["Source", "gather", "page"]
