"""fer-bench report: the page and the plots of a result file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from fer_bench import options


def report(
    results: Annotated[Path, typer.Argument(help="File of `fer-bench --json` or of `fer-deploy --json`.")],
    html_out: options.HtmlOut = None,
    plots_out: options.PlotsOut = None,
    data: Annotated[
        Optional[Path],
        typer.Option(help="The data that was measured on, so that the page shows the faces that rows got wrong."),
    ] = None,
) -> None:
    """Makes the page and the plots of a result file; measures nothing (docs/report.md).

    Examples:

    * `fer-bench report out.json --html results.html --data fer2013.csv`

    * `fer-bench report both.json --plots plots/`
    """
    from fer_bench.merge import read_results
    from fer_bench.report.album import faces_of
    from fer_bench.report.page import write_report
    from fer_runtimes.errors import BadInput

    if html_out is None and plots_out is None:
        raise BadInput("nothing to write: give --html results.html, --plots FOLDER, or both")
    content = read_results(results)
    try:
        write_report(content, faces_of(content, data, str(results)) if data else None, html_out, plots_out)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise BadInput(
            f"{results}: not as fer-bench writes it ({type(error).__name__}: {error}); measure again"
        ) from error
