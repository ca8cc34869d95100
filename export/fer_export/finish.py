"""Building and checking the engine of a bundle on the device that runs it. Needs no torch, and no ONNX packages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fer_runtimes.bundle import Bundle
from fer_runtimes.errors import NotAvailable
from fer_runtimes.session import why_not


def finish_tensorrt(bundle: Bundle, builds: int = 1, say: Callable[[str], None] = lambda _: None) -> None:
    """Builds an engine where none is kept yet, audits it, compares it with the reference, and keeps it in the cache.

    builds: how often; two builds of one command can give two engines. With more than one, all are
    built anew, their spread is told, and the one nearest to the reference is kept.

    Raises NotAvailable without a GPU or TensorRT, CheckFailed if any build is not what was asked.
    """
    if reason := why_not("tensorrt"):
        raise NotAvailable(reason)
    from fer_runtimes.engines.trt import parity_of, verified_engine
    from fer_runtimes.engines.trt_build import build, key_of
    from fer_runtimes.engines.trt_key import EngineCache

    if builds == 1:
        stored = verified_engine(bundle)
    else:
        key, cache = key_of(bundle), EngineCache(bundle.manifest.name)
        built = []
        for number in range(1, builds + 1):
            plan, layers = build(bundle, cache.timings)
            built.append((plan, layers.to_dict(), parity_of(bundle, plan).to_dict()))
            say(f"build {number} of {builds}: {_told(len(plan), layers.to_dict(), built[-1][2])}")
        say(spread(built))
        stored = cache.store(key, *min(built, key=lambda one: float(one[2]["error_ratio"])))
    say(f"engine {stored.file}: {_told(stored.record['bytes'], stored.record['layers'], stored.record['parity'])}")


def spread(built: list[tuple[bytes, dict[str, Any], dict[str, Any]]]) -> str:
    """One line on how far builds of one command lie apart: engines, sizes, layers, errors."""
    sizes = [len(plan) / 1e6 for plan, _, _ in built]
    errors = [parity["error_ratio"] for _, _, parity in built]
    layers = sorted({layers["layers"] for _, layers, _ in built})
    kinds = {_kinds(layers) for _, layers, _ in built}
    return (
        f"{len({plan for plan, _, _ in built})} different engines in {len(built)} builds: {min(sizes):.2f} to {max(sizes):.2f} MB, "
        f"{layers[0]} to {layers[-1]} layers, {' or '.join(sorted(kinds))}, error {min(errors):.1f}x to {max(errors):.1f}x float32 PyTorch's"
    )


def _told(size: int, layers: dict[str, Any], parity: dict[str, Any]) -> str:
    return (
        f"{size / 1e6:.2f} MB, {layers['layers']} layers, {_kinds(layers)}, max |logit error| {parity['max_abs_logit']:.1e} "
        f"({parity['error_ratio']:.1f}x float32 PyTorch's), top-1 agreement {parity['top1_agreement']:.4f}"
    )


def _kinds(layers: dict[str, Any]) -> str:
    return ", ".join(f"{count} convolutions and products in {kind}" for kind, count in sorted(layers["heavy"].items()))
