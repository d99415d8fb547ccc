"""A page of HTML that needs no other file: pictures are in it."""

import base64
import html
import io
from collections.abc import Iterable, Sequence

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from nuratio.plots.look import RED

__all__ = ["page", "picture", "table"]


def page(title: str, parts: Iterable[str]) -> str:
    """The whole page; the parts are HTML."""
    head = _HEAD.format(title=html.escape(title))
    return "\n".join([head, f"<h1>{html.escape(title)}</h1>", *parts, "</body></html>"])


def picture(fig: Figure) -> str:
    """A figure as part of a page; it is closed."""
    content = io.BytesIO()
    try:
        fig.savefig(content, format="png", dpi=70)
    finally:
        plt.close(fig)
    return f'<img alt="" src="data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}">'


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, text: int = 1) -> str:
    """A table; cells are text, the first ``text`` columns to the left and the others, numbers, to the right."""

    def cell(k: int, content: str) -> str:
        return f"<td{'' if k < text else ' class=number'}>{html.escape(content)}</td>"

    head = "".join(f"<th{'' if k < text else ' class=number'}>{html.escape(h)}</th>" for k, h in enumerate(heads))
    lines = ["".join(cell(k, content) for k, content in enumerate(row)) for row in rows]
    return f"<table><tr>{head}</tr>" + "\n".join(f"<tr>{line}</tr>" for line in lines) + "</table>"


_HEAD = f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{{title}}</title><style>
body {{{{ font-family: sans-serif; margin: 2em; max-width: 1200px; }}}}
img {{{{ display: block; max-width: 100%; margin: 1em 0; }}}}
table {{{{ border-collapse: collapse; font-size: 90%; }}}}
th, td {{{{ padding: 0.2em 0.7em; text-align: left; border-bottom: 1px solid #ddd; }}}}
.number {{{{ text-align: right; font-variant-numeric: tabular-nums; }}}}
.good {{{{ color: #2b7a1f; }}}}
.bad {{{{ color: {RED}; font-weight: bold; }}}}
</style></head><body>"""
