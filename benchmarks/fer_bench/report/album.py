"""The images that rows disagree on or are surely wrong about, as faces where the data is at hand."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fer_bench.report.markup import escaped
from fer_bench.tables import Row
from fer_runtimes.data import Faces, load_faces
from fer_runtimes.errors import BadInput
from fer_runtimes.labels import LABELS

Entry = dict[str, Any]
KEYS = ("disagreements", "worst_mistakes")


def faces_of(results: dict[str, Any], path: Path, source: str) -> Faces:
    """The images of ``path`` that the results speak of; ``source`` is what messages call the results.

    Raises BadInput if these are of other data, or of none.
    """
    data = results["data"]
    if data is None:
        raise BadInput(f"{source}: measured without data, so it names no images; leave --data out")
    faces = load_faces(path, (data["split"],))
    if (faces.sha256, faces.split, len(faces)) != (data["sha256"], data["split"], data["images"]):
        raise BadInput(
            f"{source}: measured on {data['images']} images of {data['name']} {data['split']} ({data['sha256'][:12]}); "
            f"{path} has {len(faces)} ({faces.sha256[:12]}); give the same --data"
        )
    listed = [entry["image"] for row in results["results"] for key in KEYS for entry in row.get(key) or []]
    if any(not 0 <= image < len(faces) for image in listed):
        raise BadInput(f"{source}: names an image beyond the {len(faces)} of its data; measure again")
    return faces


def album(rows: Sequence[Row], called: Sequence[str], key: str, faces: Faces | None) -> list[str]:
    """An HTML figure for each list under ``key`` that is not empty; rows that list the same images share one."""
    alike: dict[tuple[tuple[int, int], ...], list[int]] = {}
    for i, row in enumerate(rows):
        if entries := row.get(key):
            alike.setdefault(tuple(sorted((entry["image"], entry["answer"]) for entry in entries)), []).append(i)
    return [
        f"<figure><figcaption>{escaped(', '.join(called[i] for i in group))}</figcaption>"
        f'<ul class="album">{"".join(_card(entry, faces) for entry in rows[group[0]][key])}</ul></figure>'
        for group in alike.values()
    ]


def _card(entry: Entry, faces: Faces | None) -> str:
    label, answer = LABELS[entry["label"]], LABELS[entry["answer"]]
    sure = "" if entry["probability"] is None else f" {entry['probability']:.1%}"
    words = f"<b>{answer}{sure}</b><br>labelled {label}"
    if entry["reference"] is not None and entry["reference"] != entry["answer"]:
        margin = "" if entry["margin"] is None else f" by {entry['margin']:.3g}"
        words += f"<br>reference: {LABELS[entry['reference']]}{margin}"
    return f"<li>{_face(entry['image'], faces)}<p>{words}<br>no. {entry['image']:d}</p></li>"


def _face(image: int, faces: Faces | None) -> str:
    """The image as an ``<img>`` that needs no file beside the page; nothing without data."""
    if faces is None:
        return ""
    from PIL import Image

    png = io.BytesIO()
    Image.fromarray(faces.images[image]).save(png, "PNG", optimize=True)
    text = base64.b64encode(png.getvalue()).decode()
    return f'<img src="data:image/png;base64,{text}" alt="face no. {image:d}" width="96" height="96">'
