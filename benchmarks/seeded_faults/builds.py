"""A build without fault with the baseline that was made from it, and bundles that carry a fault and vouch for themselves."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fer_bench.gate.answers import Answers, Prepared, ask
from fer_bench.gate.baseline import Baseline
from fer_bench.gate.checks import Answered, Check, failures, judge
from fer_bench.gate.figures import Bounds
from fer_bench.gate.make import baseline_of, key_of
from fer_export.fold import fold
from fer_export.pipeline import Source, export, load_source
from fer_export.reference import answer
from fer_export.targets import to_onnx, to_tensorrt
from fer_runtimes.bundle import Bundle, Reference, read_bundle, write_manifest
from fer_runtimes.data import Faces
from fer_runtimes.drawn import drawn_faces
from fer_runtimes.parity import compare
from fer_runtimes.session import Options, open_session
from seeded_faults.faults import Fault

ONE = Options(threads=1)
# name: (target, precision, folded, runtime)
CELLS = {
    "pytorch unfolded": ("pytorch", "fp32", False, "pytorch"),
    "onnx fp32": ("onnx", "fp32", True, "onnxruntime"),
    "openvino fp32": ("openvino", "fp32", True, "openvino"),
    "openvino fp16": ("openvino", "fp16", True, "openvino"),
    "tensorrt fp16": ("tensorrt", "fp16", True, "onnxruntime"),
}
_CONVERTERS = {"onnx fp32": to_onnx.convert, "tensorrt fp16": to_tensorrt.convert}
_CLEAN = ("onnx fp32", "openvino fp32", "openvino fp16")


@dataclass(frozen=True)
class Build:
    """bundles, rows: by the names of ``CELLS``; sources: of the checkpoint, folded (True) and not."""

    checkpoint: Path
    sources: dict[bool, Source]
    bundles: dict[str, Bundle]
    faces: Faces
    rows: dict[str, Answered]
    baseline: Baseline

    def judge(self, row: Answered, **changed: object) -> dict[str, Check]:
        """The checks of one row, by name."""
        prepared = Prepared(self.faces.images)
        given = {"faces": self.faces, "prepared": prepared, "baseline": self.baseline, "bounds": Bounds(), **changed}
        return {check.name: check for check in judge([row], **given)[0].checks}  # type: ignore[arg-type]

    def ask(self, cell: str, bundle: Bundle | None = None) -> Answered:
        """Asks a bundle in place of the clean one of that name, from the faces' bytes on."""
        return asked(bundle or self.bundles[cell], CELLS[cell][3], Prepared(self.faces.images))


def asked(bundle: Bundle, runtime: str, prepared: Prepared, options: Options = ONE) -> Answered:
    """What a bundle answers, asked in this process."""
    manifest = bundle.manifest
    images = prepared.at(manifest.size, manifest.crop)
    return Answered(key_of(runtime, bundle), bundle, ask(bundle.path, runtime, options, images))


def build(checkpoint: Path, folder: Path, faces: Faces, reference: Faces | None = None) -> Build:
    """Exports and asks every cell under ``folder``. reference: faces of the bundles' own reference; drawn ones by default."""
    sources = {folding: load_source(checkpoint, reference, folding) for folding in (True, False)}
    bundles = {
        name: export(sources[folded], target, folder, precision)
        for name, (target, precision, folded, _) in CELLS.items()
    }
    prepared = Prepared(faces.images)
    rows = {name: asked(bundle, CELLS[name][3], prepared) for name, bundle in bundles.items()}
    baseline = baseline_of(list(rows.values()), faces, answer(checkpoint, faces))
    return Build(checkpoint, sources, bundles, faces, rows, baseline)


def forged(clean: Build, fault: Fault, strength: float, folder: Path) -> Bundle:
    """A faulty bundle that vouches for itself: hashes, reference and recorded parity are all made from the faulty model."""
    source = copy.deepcopy(clean.sources[fault.folded])
    fault.seed(source, strength)
    if not fault.folded:
        source = replace(source, net=fold(source.net, source.reference.images)[0])
    honest = clean.bundles[fault.cell]
    path = Path(shutil.copytree(honest.path, folder / "forged"))
    (path / "model.onnx").unlink()
    _CONVERTERS[fault.cell](source, honest.manifest.precision, path)
    images, kinds = source.reference.images, source.reference.kinds
    bundle = write_manifest(path, honest.manifest)
    with open_session(bundle, CELLS[fault.cell][3], ONE) as session:
        said = np.nan_to_num(session.infer(images))
    reference = Reference(images, said.astype(np.float64), said + np.float32(1e-3), kinds)
    reference.save(path)
    assert honest.manifest.parity is not None
    parity = compare(reference, said).to_dict() | {"tolerance": honest.manifest.parity["tolerance"]}
    write_manifest(path, replace(honest.manifest, parity=parity))
    return read_bundle(path)


def clean_runs(clean: Build, runs: int, pool: int = 2100, images: int = 1400) -> Iterator[list[Check]]:
    """What fails in each of ``runs`` clean runs: other faces in another order each time, float32 and float16.

    The engines answer a pool of faces once with one thread, for the baseline, and once with two, for
    the row that is held against it. Each run draws its faces from that pool.
    """
    faces = drawn_faces(pool, seed=100)
    truth, prepared = answer(clean.checkpoint, faces), Prepared(faces.images)
    before, now = (
        {name: asked(clean.bundles[name], CELLS[name][3], prepared, Options(threads=threads)) for name in _CLEAN}
        for threads in (1, 2)
    )
    for run in range(runs):
        chosen, name = np.random.default_rng(run).permutation(pool)[:images], _CLEAN[run % len(_CLEAN)]
        part = replace(faces, images=faces.images[chosen], labels=faces.labels[chosen])
        answers = Reference(truth.images[chosen], truth.logits[chosen], truth.logits_fp32[chosen], truth.kinds[chosen])
        baseline = baseline_of([_of(before[name], chosen)], part, answers)
        judged = judge([_of(now[name], chosen)], part, Prepared(part.images), baseline, Bounds())
        yield failures(judged)


def _of(row: Answered, chosen: np.ndarray) -> Answered:
    assert isinstance(row.answers, Answers)
    return replace(row, answers=replace(row.answers, logits=row.answers.logits[chosen]))
