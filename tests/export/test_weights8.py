"""Weights in int8: what is stored, what engines make of it, and what happens when a scale is altered."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from fer_export.pipeline import Source, export
from fer_export.rounding import round_weights
from fer_export.weights8 import SMALLEST, quantise, store_weights_in_int8
from fer_runtimes.bundle import Bundle, read_bundle, read_reference, write_manifest
from fer_runtimes.errors import BadInput, CheckFailed
from fer_runtimes.mil.program import read_program
from fer_runtimes.parity import Tolerance, check_session
from fer_runtimes.session import Options, open_session
from fer_train.equalise import equalise

TARGETS = {"onnx": "onnxruntime", "openvino": "openvino", "coreml": "coreml-reference"}
RANDOM = np.random.default_rng(0)


def test_quantised_values_are_pytorch_s() -> None:
    weight = RANDOM.normal(size=(8, 5, 3, 3)).astype(np.float32) * np.geomspace(1e-6, 1e3, 8, dtype=np.float32).reshape(
        -1, 1, 1, 1
    )
    values, scale = quantise(weight, 0)
    expected = torch.fake_quantize_per_channel_affine(
        torch.from_numpy(weight), torch.from_numpy(scale), torch.zeros(8, dtype=torch.int32), 0, -127, 127
    ).numpy()
    np.testing.assert_array_equal(values * scale.reshape(-1, 1, 1, 1), expected)
    assert (np.abs(values).reshape(8, -1).max(1) == 127).all()
    assert (np.abs(expected - weight) <= 0.5001 * scale.reshape(-1, 1, 1, 1)).all()


def test_scales_lie_along_the_axis_asked_for_and_a_channel_of_zeros_stays_zero() -> None:
    weight = RANDOM.normal(size=(6, 4)).astype(np.float32)
    weight[:, 2] = 0
    values, scale = quantise(weight, -1)
    assert scale.shape == (4,)
    assert scale[2] == 1
    assert not values[:, 2].any()
    np.testing.assert_allclose(scale[[0, 1, 3]], np.abs(weight).max(0)[[0, 1, 3]] / 127, rtol=1e-6)


def products(random: np.random.Generator) -> onnx.ModelProto:
    """Every kind of reader: convolution, Gemm both ways round, MatMul; a weight that is also added, and a small one."""
    shapes = {"conv": (32, 8, 3, 3), "gemm": (32, 64), "gemm_t": (48, 64), "product": (48, 64), "both": (64, 64)}
    shapes["small"] = (64, 7)
    weights = {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    nodes = [
        helper.make_node("Conv", ["x", "conv"], ["a"]),
        helper.make_node("ReduceMean", ["a"], ["b"], axes=[2, 3], keepdims=0),
        helper.make_node("Gemm", ["b", "gemm"], ["c"]),
        helper.make_node("Gemm", ["c", "gemm_t"], ["d"], transB=1),
        helper.make_node("MatMul", ["d", "product"], ["e"]),
        helper.make_node("MatMul", ["e", "both"], ["f"]),
        helper.make_node("ReduceSum", ["both"], ["g"], keepdims=0),
        helper.make_node("Add", ["f", "g"], ["h"]),
        helper.make_node("MatMul", ["h", "small"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "products",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 8, 6, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 7])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_only_large_weights_of_convolutions_and_products_are_stored_in_int8_along_their_output_channels() -> None:
    random = np.random.default_rng(0)  # its own: the same whichever tests ran before
    model = products(random)
    before = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    assert store_weights_in_int8(model) == ["conv", "gemm", "gemm_t", "product"]
    onnx.checker.check_model(model, full_check=True)
    after = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    assert set(after) == {"both", "small"} | {
        f"{name}_{part}" for name in ("conv", "gemm", "gemm_t", "product") for part in ("int8", "scale")
    }
    scales = [len(after[f"{name}_scale"]) for name in ("conv", "gemm", "gemm_t", "product")]
    assert scales == [32, 64, 48, 64]
    x = random.normal(size=(2, 8, 6, 6)).astype(np.float32)
    (got,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})
    exact = products_in_numpy(x, before)
    assert 1e-6 < np.abs(got - exact).max() / np.abs(exact).max() < 0.02


def products_in_numpy(x: np.ndarray, w: dict[str, np.ndarray]) -> Any:
    out = torch.nn.functional.conv2d(torch.from_numpy(x), torch.from_numpy(w["conv"].copy())).mean((2, 3)).numpy()
    return (out @ w["gemm"] @ w["gemm_t"].T @ w["product"] @ w["both"] + w["both"].sum()) @ w["small"]


def stored(bundle: Bundle) -> list[np.ndarray]:
    """The int8 tensors of a model file as it lies on disk."""
    if bundle.manifest.target == "onnx":
        arrays = [numpy_helper.to_array(one) for one in onnx.load(bundle.file(".onnx")).graph.initializer]
    elif bundle.manifest.target == "openvino":
        nodes = openvino.Core().read_model(bundle.file(".xml")).get_ordered_ops()
        arrays = [node.data for node in nodes if node.get_type_name() == "Constant"]
    else:
        arrays = list(read_program(bundle.path / "model.mlpackage").constants.values())
    return [one for one in arrays if isinstance(one, np.ndarray) and one.dtype == np.int8 and one.ndim > 1]


@pytest.mark.parametrize("target", TARGETS)
def test_a_file_holds_the_net_s_large_weights_in_int8_and_is_a_third_at_most(
    bundles: dict[str, Bundle], source: Source, target: str
) -> None:
    small, large = bundles[f"{target} int8-weights"], bundles[f"{target} fp32"]
    assert small.model_bytes <= 0.3 * large.model_bytes
    even, _ = equalise(source.net, source.reference.images)
    rounded = round_weights(even, source.reference.images, SMALLEST, source.size.macs)[0]
    weights = [p.detach().numpy() for p in rounded.parameters() if p.ndim > 1 and p.numel() >= SMALLEST]
    kept = {one.shape: one for one in stored(small)}
    assert set(kept) == {one.shape for one in weights}  # all of different shapes in this net
    assert len(kept) == 6
    for weight in weights:
        values, _ = quantise(weight, 0)
        off = np.abs(kept[weight.shape].astype(int) - values)
        assert off.max() <= 1  # coremltools rounds to float16 first, and sums in another order: few go the other way
        assert (off > 0).mean() < 0.02


@pytest.mark.parametrize("target", TARGETS)
def test_engines_say_that_they_compute_in_float(bundles: dict[str, Bundle], target: str) -> None:
    with open_session(bundles[f"{target} int8-weights"], TARGETS[target], Options(threads=1)) as session:
        assert session.report().compute == ("fp16" if target == "coreml" else "fp32")


def test_onnx_runtime_dequantises_once_at_load(
    bundles: dict[str, Bundle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    optimised, opened = tmp_path / "optimised.onnx", onnxruntime.InferenceSession

    def open_and_keep(model: str, settings: Any, providers: Any) -> Any:
        settings.optimized_model_filepath = str(optimised)
        return opened(model, settings, providers)

    monkeypatch.setattr(onnxruntime, "InferenceSession", open_and_keep)
    with open_session(bundles["onnx int8-weights"], "onnxruntime", Options(threads=1)):
        kinds = [node.op_type for node in onnx.load(optimised).graph.node]
    assert "DequantizeLinear" not in kinds
    assert sum("Conv" in kind for kind in kinds) == 7


def double_first(tensor: np.ndarray) -> np.ndarray:
    changed = tensor.copy()
    changed.ravel()[0] *= 2
    return changed


def alter_onnx(bundle: Bundle) -> None:
    path = bundle.file(".onnx")
    model = onnx.load(path)
    scale = next(one for one in model.graph.initializer if one.name.endswith("_scale"))
    scale.CopyFrom(numpy_helper.from_array(double_first(numpy_helper.to_array(scale)), scale.name))
    onnx.save(model, str(path))


def alter_blob(file: Path, scale: np.ndarray) -> None:
    content = file.read_bytes()
    assert content.count(scale.tobytes()) == 1
    file.write_bytes(content.replace(scale.tobytes(), double_first(scale).tobytes()))


def alter_openvino(bundle: Bundle) -> None:
    nodes = openvino.Core().read_model(bundle.file(".xml")).get_ordered_ops()
    scale = next(node.data for node in nodes if node.get_type_name() == "Constant" and node.data.shape == (32, 1, 1, 1))
    alter_blob(bundle.file(".bin"), scale.copy())


def alter_coreml(bundle: Bundle) -> None:
    program = read_program(bundle.path / "model.mlpackage")
    name = next(op.inputs["scale"][0] for op in program.ops if op.kind == "constexpr_affine_dequantize")
    alter_blob(bundle.path / "model.mlpackage/Data/com.apple.CoreML/weights/weight.bin", program.constants[name])


@pytest.mark.parametrize("alter", [alter_onnx, alter_openvino, alter_coreml])
def test_one_altered_scale_fails_parity_though_the_hashes_match(
    bundles: dict[str, Bundle], tmp_path: Path, alter: Callable[[Bundle], None]
) -> None:
    target = alter.__name__.removeprefix("alter_")
    path = Path(shutil.copytree(bundles[f"{target} int8-weights"].path, tmp_path / "bundle"))
    assert parity(path).top1_agreement > 0.9
    alter(read_bundle(path))
    with pytest.raises(BadInput, match="its contents are not those that the manifest names"):
        read_bundle(path)
    write_manifest(path, bundles[f"{target} int8-weights"].manifest)
    with pytest.raises(CheckFailed, match="departs from the reference"):
        parity(path)


def parity(path: Path) -> Any:
    bundle = read_bundle(path)
    assert bundle.manifest.parity is not None
    tolerance = Tolerance(**bundle.manifest.parity["tolerance"])
    with open_session(bundle, TARGETS[bundle.manifest.target], Options(threads=1)) as session:
        return check_session(session, read_reference(bundle), tolerance, "it")


def test_core_ml_uses_the_op_of_the_oldest_system(bundles: dict[str, Bundle], source: Source, tmp_path: Path) -> None:
    later = export(source, "coreml", tmp_path, "int8-weights", settings={"deployment_target": "iOS18"})
    older = bundles["coreml int8-weights"]
    kinds = [
        {op.kind for op in read_program(one.path / "model.mlpackage").ops if op.kind.startswith("constexpr")}
        for one in (older, later)
    ]
    assert kinds == [{"constexpr_affine_dequantize"}, {"constexpr_blockwise_shift_scale"}]
    images = read_reference(older).images[:8]
    answers = [open_session(one, "coreml-reference").infer(images) for one in (older, later)]
    np.testing.assert_array_equal(*answers)
    with pytest.raises(BadInput, match="takes iOS16, iOS17, iOS18 at precision int8-weights"):
        export(source, "coreml", tmp_path / "15", "int8-weights", settings={"deployment_target": "iOS15"})
    assert not (tmp_path / "15").exists()
