"""The few pieces of HTML that the page is made of. Whatever text a result file holds goes through ``escaped``."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from xml.etree import ElementTree

from fer_bench.tables import WORDS

_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
_REFERENCE = re.compile(r"url\(#([^)]+)\)")


def escaped(text: object) -> str:
    """Text as HTML shows it letter by letter; what is not printable becomes a space."""
    return html.escape("".join(letter if letter.isprintable() else " " for letter in str(text)))


def table(
    headings: Sequence[str], rows: Sequence[Sequence[str]], label: str, named: str, marked: Sequence[int] = ()
) -> str:
    """A table in a box of its own that scrolls sideways. named: the column that names its row; marked: rows to stand out."""
    head = "".join(f'<th scope="col"{_aligned(heading)}>{escaped(heading)}</th>' for heading in headings)
    body = []
    for i, row in enumerate(rows):
        cells = "".join(
            f'<th scope="row">{escaped(text)}</th>'
            if heading == named
            else f"<td{_aligned(heading)}>{escaped(text)}</td>"
            for heading, text in zip(headings, row, strict=True)
        )
        body.append(f"<tr{' class=marked' if i in marked else ''}>{cells}</tr>")
    return (
        f'<div class="scroll" role="region" aria-label="{escaped(label)}" tabindex="0">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    )


def _aligned(heading: str) -> str:
    return ' class="word"' if heading in WORDS else ""


def own_svg(svg: str, prefix: str, label: str) -> str:
    """A matplotlib ``<svg>`` made fit to stand beside others in a page.

    Its ids, and what refers to them, get a prefix; its style sheet, which would hold for the whole page,
    and its metadata are dropped; it takes the width it is given, and has a name for who cannot see it.
    """
    ElementTree.register_namespace("", _SVG)
    ElementTree.register_namespace("xlink", _XLINK)
    root = ElementTree.fromstring(svg)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{{{_SVG}}}metadata", f"{{{_SVG}}}style"):
                parent.remove(child)
    for element in root.iter():
        for name, value in element.attrib.items():
            if name == "id":
                element.set(name, prefix + value)
            elif name in ("href", f"{{{_XLINK}}}href") and value.startswith("#"):
                element.set(name, f"#{prefix}{value[1:]}")
            else:
                element.set(name, _REFERENCE.sub(rf"url(#{prefix}\1)", value))
    for name in ("width", "height"):
        del root.attrib[name]
    root.attrib |= {"role": "img", "aria-label": label}
    return ElementTree.tostring(root, encoding="unicode")
