"""What the results of all experiments can do: show themselves, and be shown as plots."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from emscope.notebook import Shown

if TYPE_CHECKING:
    import plotly.graph_objects as go


class Result(Shown):
    """The result of an experiment: one line as text, a table in a notebook; its room has a `page` beside its module."""

    def figures(self) -> dict[str, go.Figure]:
        """Return the plots of the report's section on this result, by title: a notebook shows each of them."""
        page = importlib.import_module(type(self).__module__.removesuffix(".result") + ".page")
        plots: dict[str, go.Figure] = page.section(self).figures
        return plots
