"""From a checkpoint to a checked bundle: load, fold, convert, load back, compare, keep."""

from __future__ import annotations

import importlib
import platform
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fer_export.targets import TARGETS
from fer_runtimes.bundle import Bundle, Manifest, Reference, read_bundle, write_manifest, writing_bundle
from fer_runtimes.data import Faces
from fer_runtimes.engines.trt_key import TIMING_CACHE, BuildSettings
from fer_runtimes.errors import BadInput, NotAvailable
from fer_runtimes.files import cache_dir, sha256_of
from fer_runtimes.labels import LABELS
from fer_runtimes.session import Options, open_session, why_not
from fer_runtimes.signing import sign_bundle
from fer_runtimes.versions import installed_versions

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from fer_export.fold import FoldProof, Size
    from fer_export.int8 import Quantised
    from fer_train.checkpoint import Checkpoint
    from fer_train.deploy import Deployable


@dataclass(frozen=True)
class Source:
    """A checkpoint made ready for any target: the net to convert and the truth to judge by.

    net: float32, eval, bytes in, logits out; folded if there is a proof
    quantised: its INT8 graph, for the precision int8 (``fer_export.int8.quantise_source``)
    """

    checkpoint: Checkpoint
    checkpoint_sha256: str
    net: Deployable
    proof: FoldProof | None
    size: Size
    reference: Reference
    quantised: Quantised | None = None

    def describe(self) -> dict[str, object]:
        """What is written into formats that carry metadata, so that a model file alone still says what it is."""
        return {
            "model": self.checkpoint.model["name"],
            "labels": list(LABELS),
            "input": self.checkpoint.input,
            "checkpoint_sha256": self.checkpoint_sha256,
            "folded": self.proof is not None,
        } | ({"temperature": self.checkpoint.probabilities["temperature"]} if self.checkpoint.probabilities else {})


def why_no_target(target: str) -> str | None:
    """One line that says why a target cannot be exported here, or None."""
    row = TARGETS.get(target)
    if row is None:
        return f"target {target!r} is unknown; known are {', '.join(TARGETS)}"
    if missing := [module for module in row.needs if find_spec(module) is None]:
        return f"target {target} needs {', '.join(missing)}, not installed here; {row.install}"
    return why_not(row.runtime)


def load_source(
    checkpoint: Path,
    faces: Faces | None = None,
    folding: bool = True,
    say: Callable[[str], None] = lambda _: None,
    reference: Reference | None = None,
) -> Source:
    """Loads a checkpoint, answers the reference images in float64, and folds the net with proof.

    faces: real images for the proof and for parity; without them drawn faces serve.
    say: told each step in a few words.
    reference: of this very checkpoint, where it is at hand: the truth is the unfolded net's, folding or not.

    Raises BadInput for what is not a checkpoint, CheckFailed if the folded net is another function.
    """
    from fer_export.fold import fold, measure, nothing_to_fold
    from fer_export.reference import make_reference
    from fer_runtimes.drawn import drawn_faces
    from fer_train.checkpoint import load_checkpoint
    from fer_train.deploy import deployable

    loaded = load_checkpoint(checkpoint)
    if loaded.folded and not loaded.trained_folded:
        raise BadInput(
            f"{checkpoint}: is folded already; export the checkpoint it was folded from, parity is judged against that"
        )
    say(f"checkpoint {checkpoint.name}: {loaded.model['name']}, {loaded.input['size']}x{loaded.input['size']}")
    net = deployable(loaded)
    size, crop = loaded.input["size"], loaded.input["crop"]
    reference = reference or make_reference(net, faces or drawn_faces(1024, seed=0), size, crop)
    digest = sha256_of(checkpoint)
    if not folding and loaded.folded:
        raise BadInput(f"{checkpoint}: was trained folded and has no branches to keep; leave out --no-fold")
    if not folding:
        return Source(loaded, digest, net, None, measure(net, reference.images[:1]), reference)
    if loaded.folded:
        nothing = nothing_to_fold(net, reference.images)
        return Source(loaded, digest, net, nothing, nothing.after, reference)
    folded, proof = fold(net, reference.images)
    say(
        f"folded {proof.blocks} blocks: {proof.before.convolutions} convolutions to {proof.after.convolutions}, "
        f"{proof.before.parameters / 1e6:.2f} M parameters to {proof.after.parameters / 1e6:.2f} M, "
        f"{proof.before.macs / 1e6:.0f} M MACs to {proof.after.macs / 1e6:.0f} M; float64 error {proof.net_error:.0e}"
    )
    return Source(loaded, digest, folded, proof, proof.after, reference)


def export(
    source: Source,
    target: str,
    out: Path,
    precision: str = "fp32",
    say: Callable[[str], None] = lambda _: None,
    settings: dict[str, str] | None = None,
    key: Ed25519PrivateKey | None = None,
    build: BuildSettings | None = None,
    timing_cache: Path | None = None,
    builds: int = 1,
) -> Bundle:
    """Converts a source to one target, checks it in that target's engine, and returns the bundle under ``out``.

    settings: what the target's row allows beyond the precision, e.g. ``{"deployment_target": "iOS17"}``
    key: signs the bundle before it is moved into place, so that it appears signed or not at all
    build, timing_cache, builds: for a target whose engine is built on the device: how, from what
    (a timing cache travels in the bundle, pinned by its hash), and how often. Where the engine can
    be built here, it is; else a line says where it will be.

    Raises BadInput for a timing cache that is not there and for int8 without a quantised source, NotAvailable for a target or precision that
    cannot be had here, CheckFailed if the
    engine gives other answers, or float16 cannot hold a value of the net; in each case nothing is left under ``out``. An
    engine that is built here and then fails leaves the bundle, which passed, without it.
    """
    from fer_export.overflow import FLOAT16_LARGEST, check_float16
    from fer_export.rounding import round_weights, told
    from fer_export.weights8 import SMALLEST
    from fer_runtimes.parity import check_session
    from fer_train.equalise import equalise

    check_available(target, precision)
    row, tolerance = TARGETS[target], TARGETS[target].tolerances[precision]
    chosen = choose_settings(target, precision, settings or {})
    if precision == "int8" and source.quantised is None:
        raise BadInput("int8 needs faces to calibrate on; give --data fer2013.csv")
    quantised = source.quantised if precision == "int8" else None
    if timing_cache is not None and not timing_cache.is_file():
        raise BadInput(f"{timing_cache}: no such timing cache; leave out --timing-cache")
    if builds > 1 and (reason := why_not(target)):
        raise NotAvailable(f"{reason}; leave out --builds, and give it with --finish on the device")
    name, size = source.checkpoint.model["name"], source.checkpoint.input["size"]
    manifest = Manifest(
        name=bundle_name(name, target, precision, source.proof is not None),
        target=target,
        precision=precision,
        input={
            "name": "images",
            "shape": ["N", 1, size, size],
            "dtype": "uint8",
            "layout": "NCHW",
            "colour": "grey",
            "crop": source.checkpoint.input["crop"],
        },
        output={"name": "logits", "shape": ["N", len(LABELS)], "dtype": "float32"},
        source={
            "checkpoint_sha256": source.checkpoint_sha256,
            "model": name,
            "folded": source.proof is not None,
            "parameters": source.size.parameters,
            "macs": source.size.macs,
            "convolutions": source.size.convolutions,
            "fold_proof": source.proof and source.proof.to_dict(),
            "metrics": source.checkpoint.metrics,
            "recipe": source.checkpoint.recipe,
        },
        versions={"python": platform.python_version(), **installed_versions()},
        files={},
        probabilities=source.checkpoint.probabilities,
        calibration=quantised.record_of(row.quantiser) if quantised else None,
        build=asdict(build or BuildSettings(precision)) if row.finish else chosen or None,
    )
    largest = check_float16(source.net, source.reference.images) if precision == "fp16" else None
    if precision == "int8-weights":
        even = equalise(source.net, source.reference.images)[0]
        rounded, layers = round_weights(even, source.reference.images, SMALLEST, source.size.macs)
        source = replace(source, net=rounded)
        say(f"{target} {precision}: {told(layers, source.size)}")
    with writing_bundle(out / manifest.name) as folder:
        _named(row.converter)(source, precision, folder, **chosen)
        source.reference.save(folder)
        if timing_cache is not None:
            shutil.copyfile(timing_cache, folder / TIMING_CACHE)
        bundle = write_manifest(folder, manifest)
        with open_session(read_bundle(folder), row.runtime, Options(threads=1)) as session:
            parity = check_session(session, source.reference, tolerance, f"{target} {precision}")
            notes = session.report().notes
            accuracy = None
            if quantised:
                logits = session.infer(quantised.held_out.images)
                accuracy = quantised.held_out.check(logits, f"{target} {precision} in {row.runtime}")
        checked = (
            parity.to_dict() | {"tolerance": asdict(tolerance)} | ({"largest": largest.to_dict()} if largest else {})
        )
        write_manifest(folder, replace(bundle.manifest, parity=checked, accuracy=accuracy))
        signer = sign_bundle(folder, key) if key else None
    say(
        f"{target} {precision}: checked in {row.runtime} on {parity.images} images, max |logit error| {parity.max_abs_logit:.1e}"
        + (
            f", mean KL {parity.mean_kl:.1e}, top-1 agreement {parity.top1_agreement:.4f} on these closest calls"
            if tolerance.error_ratio is None
            else f" ({parity.error_ratio:.1f}x float32 PyTorch's), top-1 agreement {parity.top1_agreement:.4f}, {parity.certified:.1%} of labels certified"
        )
        + (f"; signed by {signer}" if signer else "")
    )
    if largest:
        say(
            f"{target} {precision}: largest value {largest.value:.3g}, of {largest.tensor}; float16 holds {FLOAT16_LARGEST:.0f}"
        )
    if accuracy:
        say(
            f"{target} {precision}: {accuracy['int8']:.2%} on {accuracy['images']} held-out faces, float32 {accuracy['fp32']:.2%}; "
            f"agreement {accuracy['agreement']:.2%}"
        )
    for note in notes:
        say(f"{target} {precision}: {note}")
    bundle = read_bundle(out / manifest.name)
    if row.finish and (reason := why_not(target)):
        say(
            f"{reason}; the engine will be built on the device by `fer-export --target {target} --finish {bundle.path}`, "
            f"or by the first `fer-bench --runtime {target} --model {bundle.path}`"
        )
    elif row.finish:
        _named(row.finish)(bundle, builds, say)
    return bundle


def finish(path: Path, target: str, builds: int = 1, say: Callable[[str], None] = lambda _: None) -> Bundle:
    """Builds and checks, on this device, the engine of a bundle; needs no torch. Returns the bundle, which stays as it is.

    Raises BadInput for a target without engines or a bundle of another, NotAvailable if the engine
    cannot be built here, CheckFailed if it is not what was asked or gives other answers.
    """
    row = TARGETS.get(target)
    if row is None or not row.finish:
        others = ", ".join(name for name, one in TARGETS.items() if one.finish)
        raise BadInput(f"target {target} has no engine to finish; --finish is for --target {others}")
    bundle = read_bundle(path)
    if bundle.manifest.target != target:
        raise BadInput(f"{path}: is of target {bundle.manifest.target}, not {target}; export it with --target {target}")
    _named(row.finish)(bundle, builds, say)
    return bundle


def choose_settings(target: str, precision: str, given: dict[str, str]) -> dict[str, str]:
    """Every setting of a target, as given or by default. Raises BadInput for one that it, or the precision, does not take."""
    row = TARGETS[target]
    allowed = row.settings | row.needed.get(precision, {})
    for name, value in given.items():
        option = f"--{name.replace('_', '-')}"
        if name not in allowed:
            takers = [other for other, row in TARGETS.items() if name in row.settings]
            raise BadInput(f"target {target} takes no {option}; it is for {', '.join(takers)}")
        if value not in allowed[name]:
            which = f" at precision {precision}" if value in row.settings[name] else ""
            raise BadInput(f"{option} is {value!r}; target {target} takes {', '.join(allowed[name])}{which}")
    return {name: given.get(name, values[0]) for name, values in allowed.items()}


def find_checkpoint(given: Path | None) -> Path:
    """A file, or the name of a checkpoint that comes with this package; the default one of these where nothing is given.

    Raises NotAvailable where torch, needed to read it, is missing.
    """
    if find_spec("torch") is None or find_spec("timm") is None:
        raise NotAvailable(
            "exporting needs torch and timm, not installed here; pip install '.[export]' in fer-edge's checkout, or give a bundle made elsewhere with --model"
        )
    from fer_train.checkpoint import SHIPPED, checkpoint_path

    return checkpoint_path(given) if given else SHIPPED


def check_available(target: str, precision: str) -> None:
    """Raises NotAvailable if a target, or a precision of it, cannot be had here."""
    if reason := why_no_target(target):
        raise NotAvailable(reason)
    if precision not in TARGETS[target].tolerances:
        raise NotAvailable(
            f"target {target} has no precision {precision!r}; it has {', '.join(TARGETS[target].tolerances)}"
        )


class BundleCache:
    """Bundles of one checkpoint, each made when first asked for and kept for these package versions."""

    def __init__(self, checkpoint: Path, say: Callable[[str], None] = lambda _: None) -> None:
        from fer_train.checkpoint import load_checkpoint

        self._checkpoint, self._say = checkpoint, say
        loaded = load_checkpoint(checkpoint)
        self._model, self.has_branches = loaded.model["name"], not loaded.folded
        self._sources: dict[bool, Source] = {}
        key = sha256(repr((sha256_of(checkpoint), sorted(installed_versions().items()))).encode()).hexdigest()[:16]
        self.folder = cache_dir() / "bundles" / key

    def bundle(self, target: str, precision: str = "fp32", folding: bool = True) -> Bundle:
        """The bundle of ``export``; raises what that raises."""
        check_available(target, precision)
        path = self.folder / bundle_name(self._model, target, precision, folding)
        if path.is_dir():
            try:
                return read_bundle(path)
            except BadInput:
                self._say(f"the cached bundle {path} is damaged; making it again")
        if folding not in self._sources:
            other = self._sources.get(not folding)
            self._sources[folding] = load_source(
                self._checkpoint, folding=folding, say=self._say, reference=other.reference if other else None
            )
        return export(self._sources[folding], target, self.folder, precision, self._say)


def bundle_name(model: str, target: str, precision: str, folding: bool) -> str:
    """The folder's name, e.g. ``fer_small-onnx-fp32``."""
    return "-".join([model, target, precision, *([] if folding else ["unfolded"])])


def _named(dotted: str) -> Any:
    module, _, name = dotted.partition(":")
    return getattr(importlib.import_module(module), name)
