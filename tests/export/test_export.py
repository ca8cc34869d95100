from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import cells, public_of, write_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fer_export import pipeline
from fer_export.pipeline import BundleCache, Source, export, load_source, why_no_target
from fer_export.targets import TARGETS, to_onnx
from fer_runtimes.bundle import MANIFEST, Bundle
from fer_runtimes.errors import BadInput, CheckFailed, NotAvailable
from fer_runtimes.labels import LABELS
from fer_runtimes.session import Options, open_session
from fer_runtimes.signing import read_key, trusted_signer
from fer_train.checkpoint import load_checkpoint

CELLS = cells()


@pytest.mark.parametrize(("target", "precision"), CELLS)
def test_every_cell_of_the_table_exports_and_keeps_the_answers(
    bundles: dict[str, Bundle], target: str, precision: str
) -> None:
    manifest = bundles[f"{target} {precision}"].manifest
    assert manifest.target == target
    assert manifest.precision == precision
    assert manifest.parity is not None
    bound = TARGETS[target].tolerances[precision]
    assert bound.error_ratio is None or manifest.parity["error_ratio"] <= bound.error_ratio
    assert manifest.parity["mean_kl"] <= bound.mean_kl
    assert manifest.source["fold_proof"]["net_error"] < 1e-11
    assert manifest.source["convolutions"] == 7


def test_fp16_weights_halve_the_file(bundles: dict[str, Bundle]) -> None:
    assert bundles["openvino fp16"].model_bytes < 0.6 * bundles["openvino fp32"].model_bytes


def test_bf16_is_computed_or_refused(source: Source, bundles: dict[str, Bundle], tmp_path: Path) -> None:
    if "openvino bf16" in bundles:
        with open_session(bundles["openvino bf16"], "openvino", Options(threads=1)) as session:
            assert session.report().compute == "bf16"
        return
    with pytest.raises(NotAvailable, match="asked to compute in bf16 and computes in f32 on cpu, which has fp32"):
        export(source, "openvino", tmp_path, "bf16")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("target", ["tensorrt", "coreml", "openvino"])
def test_fp16_records_the_largest_value(bundles: dict[str, Bundle], target: str) -> None:
    parity = bundles[f"{target} fp16"].manifest.parity
    assert parity is not None
    assert 0 < parity["largest"]["value"] < 65504


@pytest.mark.parametrize("target", ["tensorrt", "openvino"])
def test_what_float16_cannot_hold_is_named(source: Source, tmp_path: Path, target: str) -> None:
    """The same function: what one layer multiplies, the next divides."""
    wide = copy.deepcopy(source)
    first, second = (wide.net.net.stages[0][i].reparam_conv for i in (0, 1))
    first.weight.data *= 2.0**16
    first.bias.data *= 2.0**16
    second.weight.data /= 2.0**16
    with pytest.raises(CheckFailed, match=r"net\.stages\.0\.0.* reaches .*, which float16 cannot hold"):
        export(wide, target, tmp_path, "fp16")
    assert list(tmp_path.iterdir()) == []
    assert export(wide, target, tmp_path, "fp32").manifest.parity is not None


def test_an_onnx_file_alone_says_what_it_is(bundles: dict[str, Bundle]) -> None:
    import onnx

    model = onnx.load(bundles["onnx fp32"].file(".onnx"))
    facts = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(facts["labels"]) == list(LABELS)
    assert facts["checkpoint_sha256"] == bundles["onnx fp32"].manifest.source["checkpoint_sha256"]
    images = model.graph.input[0]
    assert images.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert images.type.tensor_type.shape.dim[0].dim_param
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("Conv") == 7
    assert "BatchNormalization" not in kinds


def test_an_openvino_model_alone_says_what_it_is(bundles: dict[str, Bundle]) -> None:
    import openvino

    model = openvino.Core().read_model(bundles["openvino fp32"].file(".xml"))
    assert json.loads(model.get_rt_info(["model_info", "labels"]).value) == list(LABELS)


def scale(source: Source) -> None:
    source.net.scale *= 1.05
    source.checkpoint.input["std"] /= 1.05


def offset(source: Source) -> None:
    source.net.offset += 0.05
    source.checkpoint.input["mean"] -= 0.05 * source.checkpoint.input["std"]


def weight(source: Source) -> None:
    next(source.net.net.stages.parameters()).data[0] *= -1


def label_order(source: Source) -> None:
    head = source.net.net.head.fc
    head.weight.data, head.bias.data = head.weight.data.flip(0), head.bias.data.flip(0)


@pytest.fixture(scope="module", params=[scale, offset, weight, label_order])
def wrong(source: Source, request: pytest.FixtureRequest) -> Source:
    """Made once for all targets, so that it is traced once."""
    copied = copy.deepcopy(source)
    request.param(copied)
    return copied


@pytest.mark.parametrize(
    ("target", "precision"), [cell for cell in CELLS if cell[1] != "int8"]
)  # test_int8.py has them
def test_a_wrong_constant_fails_parity_and_leaves_nothing(
    wrong: Source, tmp_path: Path, target: str, precision: str, request: pytest.FixtureRequest
) -> None:
    if precision == "int8-weights" and request.node.callspec.params["wrong"] is offset:
        wrong = copy.deepcopy(
            wrong
        )  # eight bits do not tell a twentieth of a standard deviation in every net: twice that
        offset(wrong)
    with pytest.raises(CheckFailed, match=f"{target} {precision}, .* departs from the reference"):
        export(wrong, target, tmp_path / "out", precision)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_graph_is_of_the_net_as_it_is_now_and_the_caller_s_own(source: Source) -> None:
    changed = copy.deepcopy(source)
    first = to_onnx.graph(changed)
    untouched = first.SerializeToString()
    del first.graph.node[:]
    assert to_onnx.graph(changed).SerializeToString() == untouched
    for change in (weight, offset, other_size, leaky):
        before = to_onnx.graph(changed).SerializeToString()
        change(changed)
        assert to_onnx.graph(changed).SerializeToString() != before, change
    assert to_onnx.graph(source).SerializeToString() == untouched


def other_size(source: Source) -> None:
    source.checkpoint.input["size"] += 16


def leaky(source: Source) -> None:
    """No weight changes; what follows the first convolution does."""
    source.net.net.stem.act = torch.nn.LeakyReLU()


def test_a_converter_that_dies_leaves_the_bundle_that_was_there(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = export(source, "onnx", tmp_path).path
    before = (path / MANIFEST).read_bytes()

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(to_onnx, "convert", die)
    with pytest.raises(KeyboardInterrupt):
        export(source, "onnx", tmp_path)
    assert (path / MANIFEST).read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_cached_bundle_is_reused_and_a_damaged_one_made_again(checkpoint: Path) -> None:
    said: list[str] = []
    cache = BundleCache(checkpoint, said.append)
    bundle = cache.bundle("onnx")
    model = bundle.file(".onnx")
    first = model.stat().st_mtime_ns
    assert BundleCache(checkpoint).bundle("onnx").file(".onnx").stat().st_mtime_ns == first
    model.write_bytes(b"damaged")
    del said[:]
    assert cache.bundle("onnx").file(".onnx").stat().st_size > 1000
    assert "damaged" in said[0]


def test_what_cannot_be_exported_is_refused_with_what_can(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(NotAvailable, match="'tflite' is unknown; known are pytorch, onnx, openvino"):
        export(source, "tflite", tmp_path)
    with pytest.raises(NotAvailable, match="onnx has no precision 'fp16'; it has fp32, int8-weights, int8"):
        export(source, "onnx", tmp_path, "fp16")
    monkeypatch.setattr(pipeline, "find_spec", lambda name: None if name == "openvino" else object())
    assert (
        why_no_target("openvino")
        == "target openvino needs openvino, not installed here; pip install '.[export,openvino]' in fer-edge's checkout"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_folded_checkpoint_is_not_exported_again(bundles: dict[str, Bundle]) -> None:
    with pytest.raises(BadInput, match="is folded already"):
        load_source(bundles["pytorch fp32"].file(".pt"))


def test_a_folded_checkpoint_builds_the_same_net(bundles: dict[str, Bundle]) -> None:
    checkpoint = load_checkpoint(bundles["pytorch fp32"].file(".pt"))
    assert checkpoint.folded
    assert (
        sum(p.numel() for p in checkpoint.build().parameters()) == bundles["pytorch fp32"].manifest.source["parameters"]
    )
    with pytest.raises(BadInput, match="do not fit"):
        dataclasses.replace(checkpoint, folded=False).build()


def test_answers_do_not_depend_on_the_batch(bundles: dict[str, Bundle]) -> None:
    from fer_runtimes.bundle import read_reference
    from fer_runtimes.session import open_session

    images = read_reference(bundles["onnx fp32"]).images[:9]
    with open_session(bundles["onnx fp32"], "onnxruntime") as session:
        single = np.concatenate([session.infer(images[i : i + 1]) for i in range(9)])
        np.testing.assert_allclose(session.infer(images), single, atol=1e-5)


class Worn:
    """A key that fails when it is used."""

    def public_key(self) -> object:
        return Ed25519PrivateKey.generate().public_key()

    def sign(self, data: bytes) -> bytes:
        raise OSError("the key's device is gone")


def test_an_export_is_signed_from_its_first_moment_or_is_not_there(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = write_key(tmp_path / "alice")
    monkeypatch.setenv("FER_TRUSTED_KEYS", str(public_of(key)))
    out = tmp_path / "build"
    with pytest.raises(OSError, match="device is gone"):
        export(source, "pytorch", out, key=Worn())  # type: ignore[arg-type]
    assert list(out.iterdir()) == []
    path = export(source, "pytorch", out, key=read_key(key)).path
    assert trusted_signer(path) == "alice"
    with pytest.raises(OSError, match="device is gone"):
        export(source, "pytorch", out, key=Worn())  # type: ignore[arg-type]
    assert trusted_signer(path) == "alice"
    export(source, "pytorch", out)
    assert trusted_signer(path) is None
