from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper
from torch import nn

from fer_export.calibration import Calibration, choose
from fer_export.int8 import quantise_source
from fer_export.noise import isolate, measure, readiness
from fer_export.pipeline import Source, export
from fer_export.quantise import METHODS, answers, float_nodes, heavy_nodes, quantise, quantise_once, signed
from fer_export.reference import make_reference
from fer_export.targets import INT8, to_coreml
from fer_export.targets.to_onnx import graph
from fer_export.targets.to_tensorrt import check_graph, normalisation
from fer_runtimes import cpu
from fer_runtimes.bundle import Bundle
from fer_runtimes.data import Faces
from fer_runtimes.drawn import drawn_faces
from fer_runtimes.engines.ort import EXACT_INT8, compute_exactly
from fer_runtimes.errors import BadInput, CheckFailed, NotAvailable
from fer_runtimes.images import prepare
from fer_runtimes.metrics import softmax
from fer_runtimes.mil.program import read_program
from fer_runtimes.session import open_session
from fer_train.deploy import Deployable
from fer_train.equalise import equalise
from fer_train.nets import build_net


def uneven(count: int, seed: int = 7) -> Faces:
    """Drawn faces of which disgust is rare, as in FER2013."""
    faces = drawn_faces(count, seed, "Training")
    keep = (faces.labels != 1) | (np.arange(count) % 5 == 0)
    return dataclasses.replace(faces, images=faces.images[keep], labels=faces.labels[keep])


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    return choose(drawn_faces(448, seed=1, split="Training"), 14)


def test_the_selection_is_fixed_balanced_hashed_and_apart_from_what_is_held_out() -> None:
    faces = uneven(700)
    one, again, other = choose(faces, 210), choose(faces, 210), choose(faces, 211)
    assert one.record == again.record
    assert one.record["images_sha256"] != other.record["images_sha256"]
    counts = one.record["classes"]
    assert sum(counts.values()) == one.record["images"] == len(one.images) == 210
    assert counts["disgust"] < 30 < min(count for name, count in counts.items() if name != "disgust")
    assert max(counts.values()) - sorted(counts.values())[1] <= 1
    pictures = {image.tobytes() for image in one.images}
    assert not pictures & {image.tobytes() for image in one.held_out.images}
    assert len(pictures) == 210
    shares = np.bincount(one.held_out.labels, minlength=7) / len(one.held_out)
    np.testing.assert_allclose(shares, np.bincount(faces.labels, minlength=7) / len(faces), atol=0.01)


def test_a_picture_that_stands_twice_is_used_once() -> None:
    faces = drawn_faces(448, seed=1, split="Training")
    twice = dataclasses.replace(
        faces, images=np.concatenate([faces.images, faces.images]), labels=np.concatenate([faces.labels, faces.labels])
    )
    assert len(choose(twice, 35).held_out) == 448 // 4
    with pytest.raises(BadInput, match="holds 448 different faces; 400 to calibrate on"):
        choose(twice, 400)


def test_faces_of_one_class_are_refused_by_its_name() -> None:
    faces = drawn_faces(700, seed=1, split="Training")
    happy = faces.labels == 3
    with pytest.raises(BadInput, match="one class alone, happy"):
        choose(dataclasses.replace(faces, images=faces.images[happy], labels=faces.labels[happy]), 20)


def test_too_few_faces_are_refused_with_how_many_are_needed() -> None:
    with pytest.raises(BadInput, match=r"holds 396 different faces; 35 .* need about 400"):
        choose(drawn_faces(396, seed=1, split="Training"), 35)


def test_every_layer_reads_int8_weights_by_channel_and_activations_with_one_scale(int8_source: Source) -> None:
    assert int8_source.quantised is not None
    model = int8_source.quantised.model
    assert len(heavy_nodes(model)) == 8
    assert float_nodes(model) == []
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    made_by = {name: node for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear":
            assert constants[node.input[1]].shape == ()
            assert constants[node.input[2]] == 0
        if node.op_type == "Conv":
            weights, scales, zeros = (constants[name] for name in made_by[node.input[1]].input)
            assert weights.dtype == np.int8
            assert scales.shape == (len(weights),)
            assert not zeros.any()
            assert constants[node.input[2]].dtype == np.float32
    assert [node.op_type for node in normalisation(model)] == ["Cast", "Mul", "Add"]


def test_int8_files_are_smaller_and_say_what_they_were_calibrated_on(bundles: dict[str, Bundle]) -> None:
    for target in ("onnx", "openvino", "tensorrt", "coreml"):
        bundle, apart = bundles[f"{target} int8"], target == "coreml"
        assert bundle.model_bytes < 0.45 * bundles[f"{target} fp32"].model_bytes  # a tiny net: names and scales weigh
        record, accuracy = bundle.manifest.calibration, bundle.manifest.accuracy
        assert record is not None
        assert accuracy is not None
        assert (record["data"], record["split"], record["images"]) == ("drawn-faces", "Training", 70)
        assert len(record["images_sha256"]) == 64
        assert record["no_faces"] == 15
        assert record["method"] == ("minmax" if apart else "mse")
        assert record["quantiser"].startswith("coremltools " if apart else "nncf ")
        assert (record["quantised"], record["of"], record["keep_float"]) == (8, 8, [])
        assert record["keep_float_times_as_long"] is None
        assert accuracy["images"] == record["held_out"]["images"] == 175
        assert accuracy["drop"] == pytest.approx(accuracy["fp32"] - accuracy["int8"])
        assert accuracy["drop"] <= accuracy["max_drop"] == 0.02
        wrong, mended = accuracy["right_to_wrong"], accuracy["wrong_to_right"]
        assert (wrong - mended) / 175 == pytest.approx(accuracy["drop"])


def test_one_graph_answers_alike_in_both_engines(bundles: dict[str, Bundle], int8_source: Source) -> None:
    images = prepare(drawn_faces(140, seed=5).images, 48)
    top = []
    for name, runtime in (
        ("onnx int8", "onnxruntime"),
        ("onnx int8", "openvino"),
        ("openvino int8", "openvino"),
        ("coreml int8", "coreml-reference"),
    ):
        with open_session(bundles[name], runtime) as session:
            top.append(session.infer(images).argmax(1))
            assert session.report().compute == "int8"
    assert (top[0] == top[1]).mean() >= 0.97
    assert (top[1] == top[2]).mean() >= 0.99
    assert (top[0] == top[3]).mean() >= 0.95  # another quantiser, half the levels behind a ReLU


@pytest.mark.skipif(
    not cpu.has_vnni(), reason="this processor can overflow, so both sessions would be told to be careful"
)
def test_onnxruntime_does_not_overflow(bundles: dict[str, Bundle], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the processor is trusted to be exact, it answers as one that is told to."""
    images = prepare(drawn_faces(140, seed=5).images, 48)
    answers = []
    for flags in (cpu.flags(), frozenset({"avx2"})):
        monkeypatch.setattr(cpu, "flags", lambda flags=flags: flags)
        with open_session(bundles["onnx int8"], "onnxruntime") as session:
            answers.append(session.infer(images))
            options = session._session.get_session_options()  # type: ignore[attr-defined]
    assert options.get_session_config_entry(EXACT_INT8[0]) == EXACT_INT8[1]
    np.testing.assert_array_equal(*answers)


@pytest.mark.parametrize(
    ("flags", "careful"), [({"avx2"}, True), ({"avx2", "avx512_vnni"}, False), ({"avx_vnni"}, False), (set(), True)]
)
def test_the_option_against_overflow_is_given_where_a_processor_can_overflow(
    flags: set[str], careful: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu, "flags", lambda: frozenset(flags))
    settings = onnxruntime.SessionOptions()
    compute_exactly(settings)
    try:
        given = settings.get_session_config_entry(EXACT_INT8[0])
    except RuntimeError:
        given = None
    assert (given == EXACT_INT8[1]) == careful


def scale(source: Source) -> None:
    source.net.scale *= 1.05


def label_order(source: Source) -> None:
    head = source.net.net.head.fc
    head.weight.data, head.bias.data = head.weight.data.flip(0), head.bias.data.flip(0)


@pytest.mark.parametrize("fault", [scale, label_order])
def test_what_is_wrong_before_rounding_is_not_excused_by_it(
    source: Source, calibration: Calibration, fault: Callable[[Source], None]
) -> None:
    wrong = copy.deepcopy(source)
    fault(wrong)
    with pytest.raises(CheckFailed, match="the graph to be quantised departs from the reference"):
        quantise_source(wrong, calibration)


@pytest.mark.parametrize("target", ["onnx", "openvino", "tensorrt"])
def test_one_wrong_scale_fails_parity_and_leaves_nothing(int8_source: Source, tmp_path: Path, target: str) -> None:
    assert int8_source.quantised is not None
    model = onnx.ModelProto()
    model.CopyFrom(int8_source.quantised.model)
    third = [node for node in model.graph.node if node.op_type == "Conv"][2]
    made_by = {name: node for node in model.graph.node for name in node.output}
    name = made_by[third.input[1]].input[1]
    tensor = next(one for one in model.graph.initializer if one.name == name)
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(2), name))
    wrong = dataclasses.replace(int8_source, quantised=dataclasses.replace(int8_source.quantised, model=model))
    with pytest.raises(CheckFailed, match=f"{target} int8, .* departs from the reference"):
        export(wrong, target, tmp_path / "out", "int8")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_core_ml_program_rounds_weights_and_inputs_of_every_layer(bundles: dict[str, Bundle]) -> None:
    program = read_program(bundles["coreml int8"].path / "model.mlpackage")
    made_by = {tensor.name: op for op in program.ops for tensor in op.outputs}
    layers = [op for op in program.ops if op.kind in ("conv", "linear")]
    assert len(layers) == 8
    for op in layers:
        assert made_by[op.inputs["x"][0]].kind == "dequantize"
        weights = made_by[op.inputs["weight"][0]]
        assert weights.kind == "constexpr_affine_dequantize"
        assert program.constants[weights.inputs["quantized_data"][0]].dtype == np.int8
    assert bundles["coreml int8"].manifest.build == {"deployment_target": "iOS17"}


def test_a_wrong_weight_in_a_core_ml_program_fails_parity_and_an_old_system_is_refused(
    int8_source: Source, tmp_path: Path
) -> None:
    assert int8_source.quantised is not None
    net = copy.deepcopy(int8_source.quantised.net)
    convolution = [module for module in net.modules() if isinstance(module, nn.Conv2d)][2]
    convolution.weight.data *= 2
    wrong = dataclasses.replace(int8_source, quantised=dataclasses.replace(int8_source.quantised, net=net))
    with pytest.raises(CheckFailed, match=r"coreml int8, .* departs from the reference"):
        export(wrong, "coreml", tmp_path / "out", "int8")
    assert list((tmp_path / "out").iterdir()) == []
    with pytest.raises(BadInput, match="takes iOS17, iOS18 at precision int8"):
        export(int8_source, "coreml", tmp_path / "out", "int8", settings={"deployment_target": "iOS16"})


def test_int8_without_a_quantised_graph_is_refused(source: Source, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="needs faces to calibrate on; give --data"):
        export(source, "onnx", tmp_path / "out", "int8")
    assert not (tmp_path / "out").exists()


def test_core_ml_leaves_the_same_layers_in_float(int8_source: Source, tmp_path: Path) -> None:
    before = int8_source.quantised
    assert before is not None
    model = graph(dataclasses.replace(int8_source, net=before.net))
    kept = heavy_nodes(model)[2], heavy_nodes(model)[-1]
    made = quantise(model, before.images[:30], "minmax", [node.name for node in normalisation(model)] + [*kept])
    asked = dataclasses.replace(int8_source, quantised=dataclasses.replace(before, model=made, kept=kept))
    bundle = export(asked, "coreml", tmp_path, "int8")
    program = read_program(bundle.path / "model.mlpackage")
    kinds = {op.outputs[0].name: op.kind for op in program.ops}
    layers = [op for op in program.ops if op.kind in ("conv", "linear")]
    rounded = [kinds.get(op.inputs["x"][0]) == "dequantize" for op in layers]
    assert rounded == [True, True, False, True, True, True, True, False]
    weights = [op.inputs["weight"][0] in program.constants for op in layers]  # others' come from an op that scales them
    assert weights == [not row for row in rounded]
    assert bundle.manifest.calibration is not None
    assert bundle.manifest.calibration["keep_float"] == [*kept]
    assert bundle.manifest.calibration["quantised"] == 6


def test_a_layer_is_known_by_its_weights_where_branches_change_the_order(int8_source: Source, tmp_path: Path) -> None:
    net = build_net("resnet10t", 48)
    for part in net.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 1.5)  # timm begins the last of each block with 0
    branching = dataclasses.replace(int8_source, net=Deployable(net, 0.5, 0.25).eval())
    to_coreml._save(branching, "fp16", tmp_path, "iOS17")
    program, model = read_program(tmp_path / "model.mlpackage"), graph(branching)
    order = [op.outputs[0].name for op in program.ops if op.kind in ("conv", "linear")]
    assert branching.quantised is not None
    found = [
        to_coreml._left_in_float(program, dataclasses.replace(branching.quantised, model=model, kept=(node,)))
        for node in heavy_nodes(model)
    ]
    assert sorted(name for (name,) in found) == sorted(order)
    assert [name for (name,) in found] != order  # by position it would be another


def drowned(source: Source) -> Source:
    """The same classes in float32: every weight of the head a constant larger, so that all logits grow alike. No channel is wider than another."""
    offset = copy.deepcopy(source)
    head = [module for module in offset.net.modules() if isinstance(module, nn.Linear)][-1]
    head.weight.data += 1000 * head.weight.data.abs().max()
    made = make_reference(offset.net, drawn_faces(160, seed=0), 48, 1.0)
    # of sums so large the order decides the error: float32's own is here that of the engine that is judged
    own = answers(graph(dataclasses.replace(offset, reference=made)), made.images)
    return dataclasses.replace(offset, reference=dataclasses.replace(made, logits_fp32=own))


def test_the_layer_that_int8_cannot_hold_is_left_in_float_and_named(source: Source, calibration: Calibration) -> None:
    said: list[str] = []
    made = quantise_source(drowned(source), calibration, "minmax", 0.05, said.append)
    head = heavy_nodes(graph(source))[-1]
    assert made.record["keep_float"] == [head]
    assert made.layers[0].readiness.node == head
    assert made.layers[0].logits_db is not None
    assert made.layers[1].logits_db is not None
    assert made.layers[0].logits_db < made.layers[1].logits_db - 10
    assert any("points lost, 5.00 allowed; in float: " in line for line in said)
    assert 0.5 < made.record["keep_float_times_as_long"] < 5  # one product of 896 weights
    assert any("times as long as all layers in int8" in line for line in said)
    assert made.record["held_out"]["drop"] <= 0.05
    # in float it has the weights of the float net, and what is in int8 those of the rounded one
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in made.model.graph.initializer}
    own = [module for module in drowned(source).net.modules() if isinstance(module, nn.Linear)][-1]
    left = next(module for module in made.net.modules() if isinstance(module, nn.Linear))
    read = next(node.input[1] for node in made.model.graph.node if node.name == head)
    np.testing.assert_array_equal(constants[read], left.weight.detach().numpy())
    # which is evened out by powers of two
    factors = (left.weight / own.weight).detach().numpy()
    np.testing.assert_array_equal(np.log2(factors), np.log2(factors).round())


def test_the_graph_has_the_weights_that_were_rounded_with_regard_to_each_other(int8_source: Source) -> None:
    assert int8_source.quantised is not None
    stored = [
        numpy_helper.to_array(tensor).reshape(-1)
        for tensor in int8_source.quantised.model.graph.initializer
        if tensor.data_type == onnx.TensorProto.INT8 and len(tensor.dims) > 1
    ]
    layers = [module for module in int8_source.quantised.net.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    nearest = list(equalise(int8_source.net, int8_source.quantised.images)[0].modules())
    nearest = [module for module in nearest if isinstance(module, (nn.Conv2d, nn.Linear))]
    assert len(layers) == len(stored) == 8
    for values, layer, plain in zip(stored, layers, nearest, strict=True):
        one, other = (
            (part.weight / part.weight.flatten(1).abs().amax(1).div(127).reshape(-1, *[1] * (part.weight.ndim - 1)))
            .round()
            .flatten()
            .detach()
            .numpy()
            for part in (layer, plain)
        )
        np.testing.assert_array_equal(values, one)
        if plain.weight[0].numel() > 9:
            assert (one != other).any()


def test_a_budget_that_cannot_be_held_fails_and_says_what_was_reached(source: Source, calibration: Calibration) -> None:
    with pytest.raises(
        CheckFailed,
        match=r"int8 with 4 of 8 layers left in float reaches .* on 112 held-out faces, .* --max-drop allows -100",
    ):
        quantise_source(source, calibration, "minmax", -1)  # nothing gains every answer


def test_a_layer_alone_in_int8_is_that_layer_alone(int8_source: Source) -> None:
    assert int8_source.quantised is not None
    float_graph = graph(dataclasses.replace(int8_source, net=int8_source.quantised.net))
    quantised = int8_source.quantised.model
    images = int8_source.reference.images[:64]
    truth = answers(float_graph, images)
    for name in heavy_nodes(float_graph):
        alone = isolate(float_graph, quantised, name)
        assert alone is not None
        onnx.checker.check_model(alone, full_check=True)
        kinds = [node.op_type for node in alone.graph.node]
        assert kinds.count("QuantizeLinear") == 1
        assert kinds.count("DequantizeLinear") == 2
        assert 0 < np.abs(answers(alone, images) - truth).max() < 1
        assert isolate(float_graph, float_graph, name) is None
    rows = measure(float_graph, quantised, images, truth)
    noises = [row.logits_db for row in rows if row.logits_db is not None]
    assert noises == sorted(noises)
    assert len(noises) == 8


def test_readiness_counts_what_one_scale_for_all_channels_loses(source: Source) -> None:
    model = graph(source)
    first = next(tensor for tensor in model.graph.initializer if tensor.name == "net.stem.reparam_conv.weight")
    weights = numpy_helper.to_array(first).copy()
    weights[1:] = weights[:1] / 64
    first.CopyFrom(numpy_helper.from_array(weights, first.name))
    row = readiness(model)[0]
    assert (row.layer, row.range_ratio) == ("stem", pytest.approx(64))
    weights64 = weights.astype(np.float64).reshape(len(weights), -1)
    step = np.abs(weights64).max() / 127
    lost = np.square(weights64 - (weights64 / step).round() * step).sum()
    assert row.per_tensor_db == pytest.approx(10 * np.log10(np.square(weights64).sum() / lost))
    assert row.per_channel_db > row.per_tensor_db


def test_tensorrt_gets_signed_activations_over_the_same_ranges(int8_source: Source) -> None:
    assert int8_source.quantised is not None
    model = int8_source.quantised.model
    with pytest.raises(CheckFailed, match="is uint8, which TensorRT takes at the network's input alone"):
        check_graph(model, "int8")
    turned = signed(model)
    check_graph(turned, "int8")
    images = int8_source.quantised.held_out.images
    before, after = answers(model, images), answers(turned, images)
    assert (before.argmax(1) == after.argmax(1)).mean() > 0.95
    assert not np.array_equal(before, after)


def test_what_a_depthwise_convolution_reads_has_one_scale(int8_source: Source, tmp_path: Path) -> None:
    """With one for each channel ONNX Runtime computes it in float, and TensorRT refuses it."""
    parts = (
        nn.Conv2d(1, 16, 3, 2),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, groups=16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 1),
        nn.ReLU(),
    )
    net = nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 7))
    assert int8_source.quantised is not None
    images = int8_source.quantised.images
    model = graph(dataclasses.replace(int8_source, net=Deployable(net, 0.5, 0.25).eval()))
    made = quantise(model, images[:30], "minmax", [node.name for node in normalisation(model)])
    check_graph(signed(made), "int8")
    quantisers = [node for node in made.graph.node if node.op_type == "QuantizeLinear"]
    scales = {tensor.name: tensor for tensor in made.graph.initializer}
    assert len(quantisers) >= 4
    assert all(numpy_helper.to_array(scales[node.input[1]]).size == 1 for node in quantisers)
    onnx.save(made, str(tmp_path / "model.onnx"))
    settings = onnxruntime.SessionOptions()
    settings.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), settings, ["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    assert kinds.count("QLinearConv") == 3
    second = quantisers[1]
    wide = np.full(16, 0.01, np.float32), np.zeros(16, np.uint8)
    for name, value in zip(second.input[1:], wide, strict=True):
        scales[name].CopyFrom(numpy_helper.from_array(value, name))
    with pytest.raises(NotAvailable, match="a scale for each channel, which TensorRT takes for weights alone"):
        check_graph(signed(made), "int8")


def test_every_method_gives_other_ranges_and_those_that_do_not_clip_keep_the_answers(
    source: Source, int8_source: Source
) -> None:
    assert int8_source.quantised is not None
    model, images = graph(source), int8_source.quantised.held_out.images
    outside = [node.name for node in normalisation(model)]
    graphs = {method: quantise(model, images[:105], method, outside) for method in METHODS}
    assert len({made.SerializeToString() for made in graphs.values()}) == len(METHODS)
    truth = softmax(answers(model, images[105:]))
    lost = {}
    for method, made in graphs.items():
        found = softmax(answers(made, images[105:]))
        lost[method] = float((truth * (np.log(truth) - np.log(found))).sum(1).mean())
    assert max(lost["minmax"], lost["mse"]) < INT8.mean_kl, lost


def test_the_same_net_and_images_are_calibrated_once(
    source: Source, faces: Faces, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FER_CACHE", str(tmp_path))
    model, images = graph(source), prepare(np.asarray(faces.images[:20]), 48)
    outside = [node.name for node in normalisation(model)]

    def made(method: str, count: int = 20) -> bytes:
        graph: onnx.ModelProto = quantise_once(model, images[:count], method, outside)
        return graph.SerializeToString(deterministic=True)

    def kept() -> dict[str, int]:
        return {path.name: path.stat().st_mtime_ns for path in (tmp_path / "int8").iterdir()}

    first = made("minmax")
    (name,) = before = kept()
    assert (made("minmax"), kept()) == (first, before)
    assert made("minmax", 10) != first
    assert len(kept()) == 2
    file = tmp_path / "int8" / name
    content = bytearray(whole := file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert made("minmax") == first
    assert file.read_bytes() == whole
    monkeypatch.setenv("FER_CACHE", "/proc/nowhere")  # where nothing can be written
    assert made("minmax") == first


def test_a_method_that_is_not_there_is_refused_with_those_that_are(source: Source, calibration: Calibration) -> None:
    with pytest.raises(BadInput, match="'guess' is unknown; known are mse, minmax, percentile"):
        quantise_source(source, calibration, "guess")
