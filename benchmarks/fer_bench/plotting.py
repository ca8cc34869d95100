"""Plots that look alike, on matplotlib without its global state: PNG or SVG by the file's ending, or SVG inside a page."""

from __future__ import annotations

import io
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fer_runtimes.errors import BadInput, NotAvailable
from fer_runtimes.files import whole_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's: told apart by colour-blind eyes, on white and on black.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#999999")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")  # in step with COLOURS, for those who print in grey
_INK = "#4a4b4c"  # text and axes; no other thing has this colour, so that a page can put its own in its place
_FORMATS = (".png", ".svg")
_STYLE: dict[Any, Any] = {
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": _INK,
    "figure.constrained_layout.use": True,
    "font.family": "sans-serif",
    "font.size": 10,
    "grid.alpha": 0.25,
    "grid.color": _INK,
    "legend.frameon": False,
    "legend.labelcolor": _INK,
    "svg.fonttype": "none",  # text stays text: small, searchable, in the reader's font
    "svg.hashsalt": "fer",  # the same plot is the same file
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
}


def new_figure(width: float = 7.0, height: float = 4.2) -> Figure:
    """An empty figure in the project's style, inches. Raises NotAvailable without matplotlib.

    Draw on it inside ``styled()``: matplotlib reads its settings when an artist is made.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise NotAvailable("plots need matplotlib; pip install '.[report]' in fer-edge's checkout") from error
    with styled():
        return Figure(figsize=(width, height))


def styled() -> AbstractContextManager[None]:
    """Context in which artists take the project's style."""
    import matplotlib

    return matplotlib.rc_context(_STYLE)


def check_path(path: Path) -> None:
    """Before any work: raises BadInput unless ``path`` ends as a plot must, NotAvailable without matplotlib."""
    if path.suffix not in _FORMATS:
        raise BadInput(f"{path}: plots are written as {' or '.join(_FORMATS)}")
    new_figure()


def save(figure: Figure, path: Path) -> None:
    """Writes a .png or .svg whole or not at all. Raises BadInput for another ending."""
    check_path(path)
    with whole_file(path) as aside, styled():
        figure.savefig(aside, format=path.suffix[1:], dpi=160, metadata=_no_date(path.suffix))


def inline_svg(figure: Figure) -> str:
    """The figure as an ``<svg>`` element that takes its ink from the page (``currentColor``) and has no background."""
    text = io.StringIO()
    with styled():
        figure.savefig(text, format="svg", transparent=True, metadata=_no_date(".svg"))
    whole = text.getvalue()
    return whole[whole.index("<svg") :].replace(_INK, "currentColor")


def _no_date(suffix: str) -> dict[str, None]:
    return {"Date": None} if suffix == ".svg" else {}
