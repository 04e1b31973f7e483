"""Pages from templates: self-contained, without network, all text of models and users escaped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from emscope.report import wording

ASSETS = Path(__file__).parent / "assets"


def render(template: str, **values: Any) -> str:
    """Return a page made from a template of the report, with plotly and our style and script inside it."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(ASSETS), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["percent"] = wording.percent
    environment.filters["ranged"] = wording.ranged
    environment.filters["score"] = lambda value: wording.number(value, ".0f")
    environment.filters["number"] = lambda value: wording.number(value, ".2f")
    trusted = {
        "plotly": Markup(get_plotlyjs()),
        "style": Markup((ASSETS / "report.css").read_text(encoding="utf-8")),
        "script": Markup((ASSETS / "report.js").read_text(encoding="utf-8")),
    }
    return environment.get_template(template).render(**trusted, **values)
