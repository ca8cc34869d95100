"""Bundles of the zoo's backbones: untrained, or of a checkpoint where one is given, kept once made."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fer_export.pipeline import Source, bundle_name, check_available, export, load_source
from fer_runtimes.bundle import Bundle, read_bundle
from fer_runtimes.drawn import drawn_faces
from fer_runtimes.errors import BadInput
from fer_runtimes.files import cache_dir, sha256_of
from fer_runtimes.images import prepare
from fer_runtimes.labels import LABELS
from fer_runtimes.versions import installed_versions
from fer_train import nets
from fer_train.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from fer_train.nets import build_net
from fer_train.zoo import Backbone, choose

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Backbone", "ZooCache", "choose", "untrained"]

# Drawn faces for the proof and for parity; hard images come on top (fer_export.reference). The largest nets take a
# second for one image in float64.
_FACES = 14
_BATCH = 32  # for BatchNorm's statistics
_MEAN, _STD = 127 / 255, 64 / 255


def untrained(row: Backbone, path: Path) -> None:
    """Writes a checkpoint of random weights, the same each time, that behaves as a trained net does to an engine.

    BatchNorm has the statistics of a batch of drawn faces, noise, stripes and even greys, so that activations neither vanish nor
    grow, and the classifier is scaled to logits that differ by a quarter from image to image.
    """
    import torch

    torch.manual_seed(0)
    net = build_net(row.model, row.size)
    images = prepare(drawn_faces(_BATCH, seed=3).images, row.size)
    images[-6:] = np.random.default_rng(0).integers(0, 256, images[-6:].shape)
    images[-2:, :, ::2] = 255  # parity is judged on such images too
    images[-9:-6] = np.array([0, 128, 255], np.uint8)[:, None, None, None]
    faces = (torch.from_numpy(images).float() / 255 - _MEAN) / _STD
    norms = [part for part in net.modules() if isinstance(part, torch.nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum = None  # the batch's own statistics, not a moving mean
    with torch.no_grad():
        if norms:
            net.train()(faces)
        spread = net.eval()(faces).std(0).mean()
        for head in net.modules():
            if _classifies(head) and spread > 0:
                for parameter in head.parameters():
                    parameter.div_(4 * spread)
    inputs = {"size": row.size, "channels": 1, "mean": _MEAN, "std": _STD, "crop": 1.0}
    save_checkpoint(path, Checkpoint({"name": row.model, "args": {}}, inputs, net.state_dict(), {}, {}, {}))


def _classifies(part: nn.Module) -> bool:
    """DeiT has two such heads, SqueezeNet's is a convolution."""
    return len(LABELS) in (getattr(part, "out_features", None), getattr(part, "out_channels", None))


class ZooCache:
    """One backbone's bundles, each made when first asked for and kept for these package versions and this code of the nets.

    checkpoint: of this backbone, trained; without one its weights are random, and ``metrics`` is None.
    Raises BadInput if it is of another.
    """

    def __init__(
        self, row: Backbone, checkpoint: Path | None = None, say: Callable[[str], None] = lambda _: None
    ) -> None:
        self.row, self._checkpoint, self._say = row, checkpoint, say
        self.metrics: dict[str, Any] | None = None
        if checkpoint is not None:
            loaded = load_checkpoint(checkpoint)
            if loaded.model["name"] != row.model:
                raise BadInput(f"{checkpoint}: is of {loaded.model['name']}, not {row.model}")
            self.metrics = loaded.metrics
        here = Path(nets.__file__).parent
        code = [(here / name).read_text(encoding="utf-8") for name in ("nets.py", "blocks.py", "classics.py")]
        weights = checkpoint and sha256_of(checkpoint)
        key = repr((row.model, row.size, weights, _FACES, _BATCH, code, sorted(installed_versions().items())))
        self.folder = cache_dir() / "zoo" / f"{row.model}-{sha256(key.encode()).hexdigest()[:16]}"
        self._source: Source | None = None

    def bundle(self, target: str) -> Bundle:
        """The bundle of ``export``, folded, fp32; raises what that raises."""
        check_available(target, "fp32")
        path = self.folder / bundle_name(self.row.model, target, "fp32", folding=True)
        if path.is_dir():
            try:
                return read_bundle(path)
            except BadInput:
                self._say(f"the cached bundle {path} is damaged; making it again")
        if self._source is None:
            self._source = self._load()
        return export(self._source, target, self.folder, say=self._say)

    def _load(self) -> Source:
        faces = drawn_faces(_FACES, seed=9)
        if self._checkpoint is not None:
            return load_source(self._checkpoint, faces, say=self._say)
        with tempfile.TemporaryDirectory() as scratch:  # made again sooner than kept: half a gigabyte for VGG-16
            path = Path(scratch) / "untrained.pt"
            untrained(self.row, path)
            return load_source(path, faces, say=self._say)
