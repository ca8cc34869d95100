"""One table for the screen and for a page, with the machine it was made on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fer_bench.environment import environment
from fer_bench.markdown import table
from fer_runtimes.files import whole_file


def show(headings: Sequence[str], rows: Sequence[Sequence[str]], words: Sequence[str], page: Path | None) -> None:
    """Prints the table and a caption of the machine and ``words``; writes both as Markdown if asked."""
    from rich.console import Console
    from rich.table import Table

    place = environment()
    caption = "; ".join([f"{place['cpu']}, {place['cores']} cores", *words]) + "."
    shown = Table(*headings, caption=caption, caption_justify="left")
    for row in rows:
        shown.add_row(*row)
    screen = Console(highlight=False, markup=False)
    Console(highlight=False, markup=False, width=None if screen.is_terminal else 160).print(shown)
    if page is not None:
        with whole_file(page) as aside:
            aside.write_text("\n".join([*table(headings, rows), "", caption]) + "\n", encoding="utf-8")
