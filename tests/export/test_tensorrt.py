"""The TensorRT target without TensorRT: the graph, its precision, and what a stranger's graph is refused for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import Command
from onnx import TensorProto, helper, numpy_helper

from fer_export.boards import BOARDS, settings_for
from fer_export.finish import spread
from fer_export.fold import fold, measure
from fer_export.pipeline import Source, export
from fer_export.targets import to_tensorrt
from fer_export.targets.to_tensorrt import check_graph, halve, normalisation
from fer_runtimes.bundle import Bundle, Reference, read_bundle
from fer_runtimes.engines.trt_key import TIMING_CACHE, BuildSettings
from fer_runtimes.errors import BadInput, CheckFailed, NotAvailable
from fer_runtimes.session import why_not

HALF, FLOAT, UINT8 = TensorProto.FLOAT16, TensorProto.FLOAT, TensorProto.UINT8


@pytest.fixture
def fp32(bundles: dict[str, Bundle]) -> onnx.ModelProto:
    return onnx.load(bundles["tensorrt fp32"].file(".onnx"))


@pytest.fixture
def fp16(bundles: dict[str, Bundle]) -> onnx.ModelProto:
    return onnx.load(bundles["tensorrt fp16"].file(".onnx"))


def named(model: onnx.ModelProto, kind: str, number: int = 0) -> onnx.NodeProto:
    return [node for node in model.graph.node if node.op_type == kind][number]


def retype(model: onnx.ModelProto, name: str, kind: int) -> None:
    """A Cast's target type, or an initializer's, changed."""
    for node in model.graph.node:
        if name in node.output:
            node.attribute[0].i = kind
    for tensor in model.graph.initializer:
        if tensor.name == name:
            array = numpy_helper.to_array(tensor).astype(helper.tensor_dtype_to_np_dtype(kind))
            tensor.CopyFrom(numpy_helper.from_array(array, name))


def test_the_fp16_graph_is_half_inside_and_float32_at_its_ends(fp16: onnx.ModelProto) -> None:
    casts = [node for node in fp16.graph.node if node.op_type == "Cast"]
    assert [node.attribute[0].i for node in casts] == [FLOAT, HALF, FLOAT]
    assert casts[0].input[0] == "images"
    assert casts[2].output[0] == "logits"
    assert [node.op_type for node in normalisation(fp16)] == ["Cast", "Mul", "Add"]
    kinds = {tensor.name: tensor.data_type for tensor in fp16.graph.initializer}
    assert {kinds[name] for node in fp16.graph.node if node.op_type == "Conv" for name in node.input[1:]} == {HALF}
    assert fp16.graph.input[0].type.tensor_type.elem_type == UINT8


def test_fp16_halves_the_file_and_not_the_answers(bundles: dict[str, Bundle]) -> None:
    half, full = bundles["tensorrt fp16"], bundles["tensorrt fp32"]
    assert half.model_bytes < 0.6 * full.model_bytes
    assert half.manifest.parity is not None
    assert half.manifest.parity["error_ratio"] > 50  # float16 was really computed with
    facts = {entry.key: entry.value for entry in onnx.load(half.file(".onnx")).metadata_props}
    assert facts["checkpoint_sha256"] == half.manifest.source["checkpoint_sha256"]


def test_the_exported_graphs_pass(fp32: onnx.ModelProto, fp16: onnx.ModelProto) -> None:
    check_graph(fp32, "fp32")
    check_graph(fp16, "fp16")


def test_an_operator_that_the_parser_lacks_is_named(fp32: onnx.ModelProto) -> None:
    relu = named(fp32, "Relu", 2)
    relu.op_type = "Mish"
    with pytest.raises(NotAvailable, match=f"no operator Mish \\(node {relu.name}\\)"):
        check_graph(fp32, "fp32")


def test_an_operator_of_another_domain_is_named(fp32: onnx.ModelProto) -> None:
    fp32.opset_import.add(domain="com.microsoft", version=1)
    named(fp32, "Relu").domain = "com.microsoft"
    with pytest.raises(NotAvailable, match=r"no operator com\.microsoft\.Relu"):
        check_graph(fp32, "fp32")


def test_an_operator_inside_a_branch_is_found(fp32: onnx.ModelProto) -> None:
    value = helper.make_tensor_value_info("branch", FLOAT, ["N", 7])
    bodies = {
        name: helper.make_graph([helper.make_node(kind, ["logits_in"], ["branch"], kind)], name, [], [value])
        for name, kind in (("then_branch", "Identity"), ("else_branch", "Mish"))
    }
    last = fp32.graph.node[-1]
    last.output[0] = "logits_in"
    fp32.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    fp32.graph.node.append(helper.make_node("If", ["yes"], ["logits"], "choice", **bodies))
    with pytest.raises(NotAvailable, match=r"no operator Mish \(node Mish\)"):
        check_graph(fp32, "fp32")


def test_an_opset_that_tensorrt_10_3_does_not_parse_is_refused(fp32: onnx.ModelProto) -> None:
    fp32.opset_import[0].version = 21
    with pytest.raises(NotAvailable, match="opsets 9 to 19, the graph is of opset 21"):
        check_graph(fp32, "fp32")


def test_uint8_is_for_the_input_alone(fp32: onnx.ModelProto) -> None:
    shape = helper.make_node("Shape", ["images"], ["extent"], "node_shape")
    fp32.graph.node.insert(0, shape)
    with pytest.raises(CheckFailed, match=r"node node_shape \(Shape\) reads the uint8 images"):
        check_graph(fp32, "fp32")
    shape.input[0] = named(fp32, "Cast").output[0]
    fp32.graph.node.remove(fp32.graph.node[0])
    cast = helper.make_node("Cast", ["logits"], ["bytes"], "node_bytes", to=UINT8)
    fp32.graph.node.append(cast)
    with pytest.raises(CheckFailed, match="tensor bytes is uint8"):
        check_graph(fp32, "fp32")


def test_an_input_of_another_type_is_refused(fp32: onnx.ModelProto) -> None:
    fp32.graph.input[0].type.tensor_type.elem_type = TensorProto.INT32
    with pytest.raises(CheckFailed, match="input images is not uint8"):
        check_graph(fp32, "fp32")


def test_one_convolution_in_float32_is_found_in_an_fp16_graph(fp16: onnx.ModelProto) -> None:
    convolution = named(fp16, "Conv", 3)
    for name in convolution.input[1:]:
        retype(fp16, name, FLOAT)
    up = helper.make_node("Cast", [convolution.input[0]], ["wide_in"], "up", to=FLOAT)
    down = helper.make_node("Cast", ["wide_out"], [convolution.output[0]], "down", to=HALF)
    convolution.input[0], convolution.output[0] = "wide_in", "wide_out"
    place = list(fp16.graph.node).index(convolution)
    fp16.graph.node.insert(place + 1, down)
    fp16.graph.node.insert(place, up)
    del fp16.graph.value_info[:]
    with pytest.raises(CheckFailed, match=rf"node {convolution.name} \(Conv\) reads wide_in in float"):
        check_graph(fp16, "fp16")


def test_a_graph_of_the_other_precision_is_refused(fp32: onnx.ModelProto, fp16: onnx.ModelProto) -> None:
    with pytest.raises(CheckFailed, match=r"an fp32 graph was asked for and tensor .* is float16"):
        check_graph(fp16, "fp32")
    with pytest.raises(CheckFailed, match=r"an fp16 graph was asked for and node \w+ \(Conv\) reads"):
        check_graph(fp32, "fp16")


def test_normalisation_in_float16_is_refused(fp16: onnx.ModelProto) -> None:
    cast, multiply, add = normalisation(fp16)
    retype(fp16, cast.output[0], HALF)
    for node in (multiply, add):
        retype(fp16, node.input[1], HALF)
    del fp16.graph.value_info[:]
    with pytest.raises(CheckFailed, match="of the normalisation is not in float32"):
        check_graph(fp16, "fp16")


def test_logits_in_float16_are_refused(fp16: onnx.ModelProto) -> None:
    retype(fp16, "logits", HALF)
    fp16.graph.output[0].type.tensor_type.elem_type = HALF
    with pytest.raises(CheckFailed, match="output logits is not float32"):
        check_graph(fp16, "fp16")


def test_a_graph_without_normalisation_is_refused(fp32: onnx.ModelProto) -> None:
    cast, _, add = normalisation(fp32)
    named(fp32, "Conv").input[0] = cast.output[0]
    fp32.graph.node.remove(add)
    del fp32.graph.value_info[:]
    with pytest.raises(CheckFailed, match="does not begin with a Cast of the images and their normalisation"):
        check_graph(fp32, "fp32")


def test_a_graph_that_is_not_valid_is_refused(fp32: onnx.ModelProto) -> None:
    named(fp32, "Conv").input[0] = "nowhere"
    with pytest.raises(CheckFailed, match="is not valid ONNX"):
        check_graph(fp32, "fp32")


def test_int8_needs_quantised_tensors_and_takes_them_where_they_are(fp32: onnx.ModelProto, tmp_path: Path) -> None:
    with pytest.raises(NotAvailable, match="this graph has none; quantise it first"):
        check_graph(fp32, "int8")
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Noise(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = 2

        def get_next(self) -> dict[str, np.ndarray] | None:
            self.left -= 1
            return {"images": np.full((1, 1, 48, 48), 100, np.uint8)} if self.left >= 0 else None

    onnx.save(fp32, tmp_path / "fp32.onnx")
    quantize_static(
        tmp_path / "fp32.onnx",
        tmp_path / "int8.onnx",
        Noise(),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=["Conv"],
        extra_options={"ActivationSymmetric": True},
    )
    check_graph(onnx.load(tmp_path / "int8.onnx"), "int8")


@pytest.mark.parametrize(
    "name",
    [
        *("mobilenetv3_small_100", "vit_tiny_patch16_224"),
        *(pytest.param(name, marks=pytest.mark.zoo) for name in ("resnet18", "repvgg_a0", "efficientnet_b0")),
    ],
)
def test_the_zoo_passes_in_both_precisions(tmp_path: Path, name: str) -> None:
    """Weights are random: what is judged is the graph, and that both precisions give one answer."""
    import onnxruntime
    import torch

    from fer_train.checkpoint import Checkpoint
    from fer_train.deploy import deployable
    from fer_train.nets import build_net

    torch.manual_seed(0)
    state = build_net(name, 32).state_dict()
    facts = {"size": 32, "crop": 1.0, "channels": 1, "mean": 0.5, "std": 0.25}
    checkpoint = Checkpoint({"name": name, "args": {}}, facts, state, {}, {}, {})
    images = np.random.default_rng(0).integers(0, 256, (4, 1, 32, 32), dtype=np.uint8)
    net, proof = fold(deployable(checkpoint), images)
    nothing = Reference(images, np.zeros((4, 7)), np.zeros((4, 7), np.float32), np.full(4, "noise"))
    source = Source(checkpoint, "0" * 64, net, proof, measure(net, images[:1]), nothing)
    to_tensorrt.convert(source, "fp32", tmp_path)
    full = onnx.load(tmp_path / "model.onnx")
    half = halve(full)
    check_graph(half, "fp16")
    answers = []
    for model in (full, half):
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        answers.append(session.run(["logits"], {"images": images})[0])
    with torch.inference_mode():
        np.testing.assert_allclose(answers[0], net(torch.from_numpy(images)).numpy(), rtol=1e-3, atol=1e-4)
    assert not np.array_equal(answers[0], answers[1])
    assert np.abs(answers[0] - answers[1]).max() < 0.02 * max(1.0, float(np.abs(answers[0]).max()))


def break_graph(model: onnx.ModelProto) -> None:
    named(model, "Relu").op_type = "Mish"


def flip_weights(model: onnx.ModelProto) -> None:
    for tensor in model.graph.initializer:
        if len(tensor.dims) == 2:
            tensor.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(tensor), tensor.name))


@pytest.mark.parametrize(
    ("fault", "error", "complaint"),
    [(break_graph, NotAvailable, "no operator Mish"), (flip_weights, CheckFailed, "departs from the reference")],
)
def test_a_faulty_graph_leaves_no_bundle(
    source: Source,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: Callable[[onnx.ModelProto], None],
    error: type[Exception],
    complaint: str,
) -> None:
    whole = to_tensorrt.read_images_once

    def faulty(model: onnx.ModelProto) -> None:
        whole(model)
        fault(model)

    monkeypatch.setattr(to_tensorrt, "read_images_once", faulty)
    with pytest.raises(error, match=complaint):
        export(source, "tensorrt", tmp_path / "out", "fp16")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_timing_cache_travels_in_the_bundle_pinned_by_its_hash(source: Source, tmp_path: Path) -> None:
    (tmp_path / "timings").write_bytes(b"timings")
    bundle = export(source, "tensorrt", tmp_path, "fp16", timing_cache=tmp_path / "timings")
    assert (bundle.path / TIMING_CACHE).read_bytes() == b"timings"
    (bundle.path / TIMING_CACHE).write_bytes(b"timingz")
    with pytest.raises(BadInput, match="contents are not those"):
        read_bundle(bundle.path)
    with pytest.raises(BadInput, match="no such timing cache"):
        export(source, "tensorrt", tmp_path, "fp16", timing_cache=tmp_path / "absent")


def test_without_a_gpu_one_line_says_where_the_engine_will_be_built(source: Source, tmp_path: Path) -> None:
    reason = why_not("tensorrt")
    if reason is None:
        pytest.skip("TensorRT and a GPU are here: the engine is built at once")
    said: list[str] = []
    bundle = export(source, "tensorrt", tmp_path, "fp16", said.append)
    assert said[-1] == (
        f"{reason}; the engine will be built on the device by `fer-export --target tensorrt --finish {bundle.path}`, "
        f"or by the first `fer-bench --runtime tensorrt --model {bundle.path}`"
    )
    with pytest.raises(NotAvailable, match="give it with --finish on the device"):
        export(source, "tensorrt", tmp_path, "fp16", builds=3)


@pytest.mark.parametrize("name", BOARDS)
def test_a_preset_is_a_whole_set_of_settings_or_a_refusal(name: str) -> None:
    if BOARDS[name].ends_at:
        with pytest.raises(NotAvailable, match=r"use --target onnx with ONNX Runtime on that board"):
            settings_for(name)
        return
    settings = settings_for(name)
    assert settings.precision == "fp16"
    assert settings.dla_core is None
    assert settings.preset == name
    assert settings_for(name, "fp32", workspace_mib=64) == BuildSettings("fp32", (1, 1, 8), 64, preset=name)
    with pytest.raises(NotAvailable, match="hardware-compatible engines for desktop GPUs alone"):
        settings_for(name, hardware_compatible=True)


def test_a_dla_core_brings_gpu_fallback_and_one_batch_size() -> None:
    settings = settings_for("jetson-orin-nx", dla_core=1)
    assert (settings.dla_core, settings.gpu_fallback, settings.batch) == (1, True, (1, 1, 1))
    with pytest.raises(NotAvailable, match="has 2 DLA cores, core 2 was asked for"):
        settings_for("jetson-agx-orin", dla_core=2)
    with pytest.raises(BadInput, match="not in fp32"):
        settings_for("jetson-orin-nx", "fp32", dla_core=0)


def test_the_command_writes_the_settings_into_the_manifest(
    checkpoint: Path, csv_file: Path, tmp_path: Path, command: Command
) -> None:
    options = ["--for", "jetson-orin-nano", "--batch", 1, 2, 4, "--workspace", 99, "--version-compatible"]
    source = ("--checkpoint", checkpoint, "--data", csv_file)
    done = command("fer-export", "--target", "tensorrt", *source, "--out", tmp_path, *options)
    assert done.returncode == 0, done.stderr
    bundle = read_bundle(Path(done.stdout.strip()))
    assert bundle.manifest.precision == "fp16"
    assert bundle.manifest.build == {
        "precision": "fp16",
        "batch": [1, 2, 4],
        "workspace_mib": 99,
        "dla_core": None,
        "gpu_fallback": False,
        "version_compatible": True,
        "hardware_compatible": False,
        "preset": "jetson-orin-nano",
    }
    assert json.loads((bundle.path / "manifest.json").read_text())["build"] == bundle.manifest.build


def test_the_spread_of_several_builds_is_one_line() -> None:
    parity = [{"error_ratio": value} for value in (900.0, 1100.0, 900.0)]
    layers = [{"layers": count, "heavy": {"fp16": 8}} for count in (12, 14, 12)]
    plans = [b"a" * 1_000_000, b"b" * 2_000_000, b"a" * 1_000_000]
    assert spread(list(zip(plans, layers, parity, strict=True))) == (
        "2 different engines in 3 builds: 1.00 to 2.00 MB, 12 to 14 layers, 8 convolutions and products in fp16, "
        "error 900.0x to 1100.0x float32 PyTorch's"
    )
