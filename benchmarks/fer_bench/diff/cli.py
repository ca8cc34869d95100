"""fer-bench diff: where two bundles of the same net part ways."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from fer_bench import options
from fer_runtimes import console

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from fer_runtimes.bundle import Bundle

_OF_EACH_KIND = 8  # of the reference's images: faces, closest calls, black, noise, ...
_OF_DATA = 64

_RUNTIME = "Runtime that shows the tensors of {}. Default: its target's own."


def diff(
    a: Annotated[Path, typer.Argument(metavar="A", help="Bundle that is right.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="Bundle that is held against it.")],
    runtime_a: Annotated[str, typer.Option(help=_RUNTIME.format("A"))] = "",
    runtime_b: Annotated[str, typer.Option(help=_RUNTIME.format("B"))] = "",
    data: Annotated[
        Optional[Path],
        typer.Option(help="fer2013.csv (plain, .gz, .xz, .zip) or a folder. Without it: the reference images in A."),
    ] = None,
    split: options.Split = None,
    threads: options.Threads = 0,
    json_out: options.JsonOut = None,
    plot: Annotated[Optional[Path], typer.Option(help="Draw the error of each layer: .png or .svg.")] = None,
) -> None:
    """Finds the first layer at which two bundles of one net part: exit code 1 if there is one (docs/diff.md).

    Examples:

    * `fer-bench diff build/fer_small-onnx-fp32 build/fer_small-openvino-fp32`

    * `fer-bench diff build/fer_small-pytorch-fp32-unfolded build/fer_small-pytorch-fp32 --plot diff.svg`

    * `fer-bench diff good/ bad/ --runtime-b openvino --data fer2013.csv --split PublicTest --json diff.json`
    """
    from rich.console import Console

    from fer_bench.diff import report
    from fer_bench.diff.compare import diff as compare
    from fer_bench.diff.compare import side
    from fer_bench.plotting import check_path, save
    from fer_runtimes.bundle import read_bundle
    from fer_runtimes.errors import CheckFailed
    from fer_runtimes.files import whole_file

    if split and not data:
        raise typer.BadParameter("--split chooses a part of --data; give --data too")
    if plot:
        check_path(plot)
    screen = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    bundles = read_bundle(a), read_bundle(b)
    sides = side(bundles[0], runtime_a), side(bundles[1], runtime_b)
    images = _faces(data, split, bundles[0]) if data else _reference(bundles[0])
    with screen.status("comparing") as status:
        found = compare(
            *sides, images, threads or console.usable_cores(), lambda text: status.update(f"comparing {text}")
        )
    Console(highlight=False, width=None if screen.is_terminal else 200).print(report.terminal(found))
    for note in report.notes(found):
        screen.print(note)
    if json_out:
        with whole_file(json_out) as aside:
            aside.write_text(json.dumps(report.as_json(found), indent=2) + "\n", encoding="utf-8")
    if plot:
        save(report.figure(found), plot)
    if found.departs is not None or found.optimised_departs():
        raise CheckFailed(found.verdict())
    screen.print(found.verdict())


def _reference(bundle: Bundle) -> NDArray[np.uint8]:
    """Of each kind of image in the bundle's reference a few: uint8 ``[N, 1, S, S]``."""
    import numpy as np

    from fer_runtimes.bundle import read_reference

    reference = read_reference(bundle)
    chosen = [np.flatnonzero(reference.kinds == kind)[:_OF_EACH_KIND] for kind in np.unique(reference.kinds)]
    return reference.images[np.sort(np.concatenate(chosen))]


def _faces(data: Path, split: str | None, bundle: Bundle) -> NDArray[np.uint8]:
    """Faces spread evenly over a split, brought to A's input: uint8 ``[N, 1, S, S]``."""
    import numpy as np

    from fer_runtimes.data import TEST_SPLITS, load_faces
    from fer_runtimes.images import prepare

    faces = load_faces(data, (split,) if split else TEST_SPLITS)
    chosen = np.unique(np.linspace(0, len(faces) - 1, _OF_DATA).round().astype(int))
    return prepare(np.asarray(faces.images[chosen]), bundle.manifest.size, bundle.manifest.crop)
