"""fer-deploy: bundles to a board, measured there."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from fer_runtimes import console

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="markdown")


@app.command()
def deploy(
    board: Annotated[
        str, typer.Argument(metavar="USER@BOARD", help="As ssh takes it: user@host, or a name of ssh_config.")
    ],
    bundles: Annotated[list[Path], typer.Argument(metavar="BUNDLE...", help="Bundles of fer-export.")],
    runtime: Annotated[
        Optional[list[str]],
        typer.Option(help="Runtime to measure there, several times for several. Default: each target's own."),
    ] = None,
    data: Annotated[
        Optional[Path], typer.Option(help="Faces to score there; they are copied to the board. Default: no accuracy.")
    ] = None,
    split: Annotated[Optional[str], typer.Option(help="Split to score, as for fer-bench.")] = None,
    device: Annotated[Optional[str], typer.Option(help="Device there, as for fer-bench.")] = None,
    threads: Annotated[Optional[int], typer.Option(help="Threads there, as for fer-bench.")] = None,
    queries: Annotated[Optional[int], typer.Option(help="Timed inferences, as for fer-bench.")] = None,
    seconds: Annotated[Optional[float], typer.Option(help="Timed seconds, as for fer-bench.")] = None,
    merge: Annotated[
        Optional[list[Path]], typer.Option(help="Result file to put before the board's, several times for several.")
    ] = None,
    json_out: Annotated[Optional[Path], typer.Option("--json", help="Write all results as JSON.")] = None,
    markdown_out: Annotated[Optional[Path], typer.Option("--markdown", help="Write the table as Markdown.")] = None,
    wheels: Annotated[
        Optional[Path],
        typer.Option(help="Folder of wheels for a board without internet; pip there takes nothing from elsewhere."),
    ] = None,
    remote_dir: Annotated[str, typer.Option(help="Folder on the board for all of it.")] = ".cache/fer-edge/deploy",
    ssh_option: Annotated[
        Optional[list[str]],
        typer.Option(help="Passed on to ssh as it is, in one word: -p2222, -F./config, -oUser=nvidia."),
    ] = None,
) -> None:
    """Copies bundles and what runs them to a board over ssh, measures them there, and brings the results back.

    What stands on the board already is not done again, so that the same command continues after any failure.

    Examples:

    * `fer-deploy nvidia@jetson build/fer_small-tensorrt-fp16`

    * `fer-deploy pi@raspberry build/fer_small-onnx-fp32 --merge laptop.json --json both.json`

    * `fer-deploy nano build/fer_small-onnx-fp32 --wheels wheels/ --ssh-option=-p2222`
    """
    from rich.console import Console
    from rich.markup import escape

    from fer_bench import tables
    from fer_bench.deploy import steps
    from fer_bench.deploy.ssh import Connection
    from fer_bench.jsontext import json_text
    from fer_bench.merge import merge as merged
    from fer_bench.merge import read_results
    from fer_runtimes.bundle import read_bundle
    from fer_runtimes.errors import BadInput, CheckFailed, NotAvailable
    from fer_runtimes.files import whole_file

    screen = Console(stderr=True, highlight=False, soft_wrap=True)
    link = Connection(board, remote_dir, ssh_option or [])
    models = [read_bundle(path) for path in bundles]
    runtimes = list(dict.fromkeys(runtime or [])) or steps.own_runtimes(models)
    steps.check_runtimes(runtimes, models)
    earlier = [(None, read_results(path)) for path in merge or []]
    passed = {
        "--split": split,
        "--device": device,
        "--threads": threads,
        "--queries": queries,
        "--seconds": seconds,
    }
    options = [word for name, value in passed.items() if value is not None for word in (name, str(value))]
    try:
        screen.print(f"connecting to {link.board}")  # no moving line here: ssh may ask for something
        with link, screen.status("") as status:
            answer = steps.deploy(
                link, models, runtimes, options, data, wheels, screen.print, lambda line: status.update(escape(line))
            )
    except KeyboardInterrupt:
        screen.print("interrupted; run the same command again, what is done on the board stays done")
        raise
    try:
        results, refused = merged([*earlier, (link.board, answer.results)]), None
    except BadInput as error:  # what the board took minutes for is kept all the same
        results, refused = answer.results, error
    for path, content in (
        (json_out, json_text(results)),
        (markdown_out, tables.markdown(results)),
    ):
        if path is not None:
            with whole_file(path) as aside:
                aside.write_text(content, encoding="utf-8")
    Console(highlight=False, width=None if screen.is_terminal else 200).print(tables.terminal(results))
    if refused:
        raise BadInput(f"{refused}; the board's own results are given alone")
    if answer.code:
        kind = CheckFailed if answer.code == CheckFailed.exit_code else NotAvailable
        raise kind(f"{link.board}: {answer.complaint}")


def main() -> None:
    console.run(app)
