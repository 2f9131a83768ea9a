"""The report of a sweep: one HTML file that needs no network, with table, figures, configs and how to do it again.

`page` reads what run directories and a sweep directory hold; the figures, sorting and filtering are a script of ours in
the page, `page.js`, over the JSON document of `data.py`. Everything else is in the HTML, and readable without scripts.
"""

from analysis.report.contents import Source
from analysis.report.page import page

__all__ = ["Source", "page"]
