from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import openvino
import pytest
import torch
from conftest import Command
from onnx import numpy_helper
from PIL import Image

from fer_bench.diff import compare
from fer_bench.diff.compare import LEAP, Difference, Side, Sums, diff, side
from fer_bench.diff.report import as_json
from fer_export.fold import fold
from fer_export.pipeline import Source, load_source
from fer_export.targets import to_coreml, to_pytorch
from fer_runtimes.bundle import Bundle, read_bundle, read_reference, write_manifest
from fer_runtimes.drawn import drawn_faces
from fer_runtimes.engines import ENGINES
from fer_runtimes.errors import BadInput, CheckFailed, NotAvailable
from fer_runtimes.session import open_session
from fer_runtimes.tracing import open_tracer, tracing_runtime

Weights = dict[str, np.ndarray]
FIRST, MIDDLE, LATE = "net.stem.reparam_conv", "net.stages.1.0.reparam_conv", "net.stages.2.1.reparam_conv"


def compared(a: Bundle, b: Bundle, runtime_b: str = "") -> Difference:
    """On a few images of each kind of A's reference."""
    images = read_reference(a).images
    chosen = images[np.linspace(0, len(images) - 1, 20).astype(int)]
    return diff(side(a), side(b, runtime_b), chosen, 1, lambda _: None)


def named(found: Difference) -> tuple[str, str] | None:
    """The layer that departs, as A and B call it."""
    return None if found.departs is None else (found.rows[found.departs].a, found.rows[found.departs].b)


def altered(bundle: Bundle, folder: Path, fault: Callable[[Weights], None]) -> Bundle:
    """A bundle whose ONNX graph, or the OpenVINO model made of it, has other weights; its hashes agree with them."""
    path = Path(shutil.copytree(bundle.path, folder / bundle.manifest.name))
    model = onnx.load(path / "model.onnx")
    weights = {tensor.name: numpy_helper.to_array(tensor).copy() for tensor in model.graph.initializer}
    fault(weights)
    for tensor in model.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(weights[tensor.name], tensor.name))
    onnx.save(model, path / "model.onnx")
    write_manifest(path, bundle.manifest)
    return read_bundle(path)


def as_openvino(bundle: Bundle, like: Bundle, folder: Path) -> Bundle:
    """The OpenVINO bundle of an ONNX one's graph."""
    path = Path(shutil.copytree(like.path, folder / like.manifest.name))
    openvino.save_model(openvino.convert_model(bundle.file(".onnx")), path / "model.xml", compress_to_fp16=False)
    write_manifest(path, like.manifest)
    return read_bundle(path)


def as_pytorch(source: Source, like: Bundle, folder: Path) -> Bundle:
    """The PyTorch bundle of a source, faulty or not."""
    path = Path(shutil.copytree(like.path, folder / like.manifest.name))
    to_pytorch.convert(source, "fp32", path)
    write_manifest(path, like.manifest)
    return read_bundle(path)


# --- faults ------------------------------------------------------------------------------------


def one_percent_off(layer: str) -> Callable[[Weights], None]:
    def fault(weights: Weights) -> None:
        weight = weights[f"{layer}.weight"]
        weight *= np.random.default_rng(0).normal(1, 0.01, weight.shape).astype(weight.dtype)

    return fault


def rounded_to_6_bits(layer: str) -> Callable[[Weights], None]:
    def fault(weights: Weights) -> None:
        weight = weights[f"{layer}.weight"]
        step = np.abs(weight).max() / 31
        weight[:] = np.round(weight / step) * step

    return fault


def wrong_bias(layer: str) -> Callable[[Weights], None]:
    def fault(weights: Weights) -> None:
        weights[f"{layer}.bias"][0] += 0.01

    return fault


def wrong_mean(weights: Weights) -> None:
    weights["offset"] += np.float32(0.004)  # a grey level, where std is a quarter


def labels_permuted(weights: Weights) -> None:
    for part in ("weight", "bias"):
        weights[f"net.head.fc.{part}"] = np.ascontiguousarray(weights[f"net.head.fc.{part}"][::-1])


def larger_inside(weights: Weights) -> None:
    """The same function in exact arithmetic, with 2**14 times as large values between two of its layers."""
    for layer, weight, bias in (
        ("net.stages.0.0", 7, 7),
        ("net.stages.0.1", 7, 14),
        ("net.stages.1.0", -7, 7),
        ("net.stages.1.1", -7, 0),
    ):
        for part, log2 in (("weight", weight), ("bias", bias)):
            values = weights[f"{layer}.reparam_conv.{part}"]
            values[:] = (
                values.astype(np.float64) * 2.0**log2
            )  # float16 holds the weights; it is their sums that it cannot


def first_beyond_float16(bundle: Bundle, runtime: str) -> tuple[int, str]:
    """Place and name of the first tensor that float16 cannot hold."""
    tensors = list(open_tracer(bundle, runtime, 1)(read_reference(bundle).images[:16]))
    beyond = [np.abs(tensor.array).max() > np.finfo(np.float16).max for tensor in tensors]
    return beyond.index(True), tensors[beyond.index(True)].names[0]


# --- what is clean -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("onnx fp32", "onnx fp32"),
        ("pytorch fp32", "onnx fp32"),
        ("onnx fp32", "openvino fp32"),
        ("coreml fp32", "onnx fp32"),
        ("pytorch unfolded", "pytorch fp32"),
        ("pytorch unfolded", "openvino fp32"),
        ("pytorch unfolded", "coreml fp16"),
        ("onnx fp32", "tensorrt fp16"),
        ("tensorrt fp16", "coreml fp16"),
        ("openvino fp16", "onnx fp32"),
    ],
)
def test_two_clean_bundles_part_nowhere(bundles: dict[str, Bundle], a: str, b: str) -> None:
    found = compared(bundles[a], bundles[b])
    assert named(found) is None
    assert found.optimised_departs() == []
    # the normalisation, seven blocks and their activations, the mean, the head and the logits
    assert len(found.rows) == 18
    assert all(row.relative < LEAP * found.rounding for row in found.rows)
    if "unfolded" not in a:
        assert [label for label in found.unmatched["a"] + found.unmatched["b"] if "softmax" not in label] in (
            [],
            ["probabilities"],
        )


@pytest.mark.parametrize("b", ["onnx int8-weights", "openvino int8-weights", "coreml int8-weights", "onnx int8"])
def test_channels_that_the_export_evened_out_are_no_departure(bundles: dict[str, Bundle], b: str) -> None:
    found = compared(bundles["onnx fp32"], bundles[b])
    assert named(found) is None
    assert len(found.rows) >= 18


def test_a_fault_among_evened_out_channels_is_named(bundles: dict[str, Bundle], tmp_path: Path) -> None:
    def wrong_scale(weights: Weights) -> None:
        weights[f"{MIDDLE}.weight_scale"] *= 3

    wrong = altered(bundles["onnx int8-weights"], tmp_path, wrong_scale)
    found = named(compared(bundles["onnx fp32"], wrong))
    assert found is not None
    assert found[0].startswith(f"{MIDDLE} (")


def test_every_runtime_that_shows_tensors_ends_with_its_own_logits(bundles: dict[str, Bundle]) -> None:
    pairs = {"pytorch": "pytorch unfolded", "onnxruntime": "tensorrt fp16", "openvino": "openvino fp16"}
    pairs["coreml-reference"] = "coreml fp16"
    assert set(pairs) == {name for name, row in ENGINES.items() if row.tracer}
    for runtime, name in pairs.items():
        images = read_reference(bundles[name]).images[:2]
        *inner, last = open_tracer(bundles[name], runtime, 1)(images)
        assert (last.kind, last.array.shape) == ("output", (2, 7))
        assert all(tensor.array.dtype == np.float32 and len(tensor.array) == 2 for tensor in inner)
        assert all(np.ptp(tensor.array) > 0 for tensor in inner)
        assert not any(np.shares_memory(one.array, last.array) for one in inner)


def test_figures_do_not_depend_on_how_images_are_batched(
    bundles: dict[str, Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once = compared(bundles["onnx fp32"], bundles["tensorrt fp16"])
    monkeypatch.setattr(compare, "_BATCH_BYTES", 1)  # one image at a time
    one_by_one = compared(bundles["onnx fp32"], bundles["tensorrt fp16"])
    for row, other in zip(at_once.rows, one_by_one.rows, strict=True):
        assert row.relative == pytest.approx(other.relative, rel=0.05)
        assert row.max_abs == pytest.approx(other.max_abs, rel=0.5)


# --- what is faulty ----------------------------------------------------------------------------


@pytest.mark.parametrize("layer", [FIRST, MIDDLE, LATE])
@pytest.mark.parametrize("fault", [one_percent_off, rounded_to_6_bits, wrong_bias])
@pytest.mark.parametrize("a", ["onnx fp32", "pytorch fp32", "coreml fp32"])
def test_the_faulty_layer_is_named(
    bundles: dict[str, Bundle], tmp_path: Path, layer: str, fault: Callable[[str], Callable[[Weights], None]], a: str
) -> None:
    found = compared(bundles[a], altered(bundles["onnx fp32"], tmp_path, fault(layer)))
    assert named(found) is not None
    assert named(found)[1].startswith(f"{layer} (")  # type: ignore[index]
    if a == "pytorch fp32":
        assert named(found)[0] == layer  # type: ignore[index]


@pytest.mark.parametrize("fault", [one_percent_off, rounded_to_6_bits, wrong_bias])
def test_the_faulty_layer_of_an_openvino_model_is_named(
    bundles: dict[str, Bundle], tmp_path: Path, fault: Callable[[str], Callable[[Weights], None]]
) -> None:
    wrong = altered(bundles["onnx fp32"], tmp_path, fault(MIDDLE))
    found = compared(bundles["onnx fp32"], as_openvino(wrong, bundles["openvino fp32"], tmp_path))
    assert named(found) == (f"{MIDDLE} (conv2d_3)", "conv2d_3 (node_conv2d_3)")


@pytest.mark.parametrize("a", ["onnx fp32", "pytorch unfolded", "coreml fp32", "openvino fp32"])
def test_a_wrong_mean_departs_at_the_first_layer_and_permuted_labels_at_the_last(
    bundles: dict[str, Bundle], tmp_path: Path, a: str
) -> None:
    first = compared(bundles[a], altered(bundles["onnx fp32"], tmp_path / "mean", wrong_mean))
    assert first.departs == 0
    assert first.rows[0].shape == (1, 48, 48)
    last = compared(bundles[a], altered(bundles["onnx fp32"], tmp_path / "labels", labels_permuted))
    assert last.departs == len(last.rows) - 2  # behind it the output, the same tensor
    assert named(last)[1] == "net.head.fc (logits)"  # type: ignore[index]


@pytest.fixture(scope="module")
def unfolded(checkpoint: Path) -> Source:
    return load_source(checkpoint, drawn_faces(64, seed=0), folding=False)


def drop_identity(source: Source) -> None:
    source.net.net.stages[1][1].identity.weight.data *= 0
    source.net.net.stages[1][1].identity.bias.data *= 0


def drop_last_branch(source: Source) -> None:
    norm = source.net.net.stages[1][1].conv_kxk[-1].bn
    norm.weight.data *= 0
    norm.bias.data *= 0


def fold_in_train_mode(source: Source) -> None:
    """One block left in train mode when images went through the net."""
    source.net.net.stages[1][1].train()
    with torch.no_grad():
        source.net(torch.from_numpy(source.reference.images[:64]))
    source.net.eval()


@pytest.mark.parametrize("fault", [drop_identity, drop_last_branch, fold_in_train_mode])
def test_a_wrong_fold_is_named_by_its_block(
    bundles: dict[str, Bundle], unfolded: Source, tmp_path: Path, fault: Callable[[Source], None]
) -> None:
    source = copy.deepcopy(unfolded)
    fault(source)
    net, proof = fold(source.net, source.reference.images)
    wrong = as_pytorch(replace(source, net=net, proof=proof), bundles["pytorch fp32"], tmp_path)
    block_in_a, block_in_b = named(compared(bundles["pytorch unfolded"], wrong)) or ("", "")
    assert block_in_a.split(" (")[0] == "net.stages.1.1"
    assert block_in_b == "net.stages.1.1.reparam_conv"


def test_a_wrong_branch_of_an_unfolded_net_is_named(
    bundles: dict[str, Bundle], unfolded: Source, tmp_path: Path
) -> None:
    source = copy.deepcopy(unfolded)
    source.net.net.stages[1][1].conv_kxk[2].conv.weight.data *= 1.01
    wrong = as_pytorch(source, bundles["pytorch unfolded"], tmp_path)
    found = compared(bundles["pytorch unfolded"], wrong)
    assert "net.stages.1.1.conv_kxk.2.conv" in named(found)[0]  # type: ignore[index]
    assert found.unmatched == {"a": (), "b": ()}


def test_an_fp16_overflow_is_named_where_a_value_leaves_the_range(bundles: dict[str, Bundle], tmp_path: Path) -> None:
    whole = altered(bundles["onnx fp32"], tmp_path, larger_inside)
    half = altered(bundles["tensorrt fp16"], tmp_path, larger_inside)
    found = compared(whole, half)
    _, name = first_beyond_float16(whole, "onnxruntime")
    assert name == "net.stages.0.1.reparam_conv"
    assert named(found)[0].startswith(name)  # type: ignore[index]
    assert found.rows[found.departs or 0].relative == np.inf
    assert json.loads(json.dumps(as_json(found), allow_nan=False))["rows"][found.departs]["relative"] is None


def test_a_core_ml_package_shows_where_it_overflows_though_its_session_stops_there(
    source: Source, bundles: dict[str, Bundle], tmp_path: Path
) -> None:
    large = copy.deepcopy(source)
    larger_inside({name: value.numpy() for name, value in large.net.state_dict().items()})  # views of the same memory
    path = Path(shutil.copytree(bundles["coreml fp16"].path, tmp_path / "coreml"))
    shutil.rmtree(path / "model.mlpackage")
    to_coreml.convert(large, "fp16", path, "iOS16")
    half = write_manifest(path, bundles["coreml fp16"].manifest)
    place, name = first_beyond_float16(as_pytorch(large, bundles["pytorch fp32"], tmp_path), "pytorch")
    assert name == "net.stages.0.1.reparam_conv"
    images = read_reference(half).images[:16]
    with (
        open_session(half, "coreml-reference") as session,
        pytest.raises(CheckFailed, match="which float16 cannot hold"),
    ):
        session.infer(images)
    tensors = list(open_tracer(half, "coreml-reference", 1)(images))
    assert [np.isfinite(tensor.array).all() for tensor in tensors].index(False) == place
    assert tensors[-1].kind == "output"


def test_an_optimiser_that_changes_the_answers_is_a_departure(
    bundles: dict[str, Bundle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = altered(bundles["onnx fp32"], tmp_path, one_percent_off(LATE))
    real = compare.open_session
    monkeypatch.setattr(
        compare, "open_session", lambda b, *rest: real(wrong if b.manifest.target == "onnx" else b, *rest)
    )
    found = compared(bundles["openvino fp32"], bundles["onnx fp32"])
    assert found.departs is None
    assert found.optimised_departs() == ["b"]
    assert "look at what the engine fuses" in found.verdict()


# --- figures -----------------------------------------------------------------------------------


def test_figures_are_those_of_the_definitions() -> None:
    random = np.random.default_rng(0)
    a = random.normal(size=(8, 5)).astype(np.float32)
    b = a + random.normal(scale=1e-3, size=a.shape).astype(np.float32)
    sums = Sums()
    sums.add(a[:3], b[:3])
    sums.add(a[3:], b[3:])
    x, y = a.astype(np.float64), b.astype(np.float64)
    assert sums.relative == pytest.approx(np.linalg.norm(x - y) / np.linalg.norm(x))
    assert sums.largest == pytest.approx(np.abs(x - y).max())
    assert sums.cosine == pytest.approx((x * y).sum() / np.linalg.norm(x) / np.linalg.norm(y))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_in_one_alone_is_infinitely_wrong(value: float) -> None:
    a, b = np.ones(4, np.float32), np.ones(4, np.float32)
    b[1] = value
    one, both = Sums(), Sums()
    one.add(a, b)
    both.add(b, b)
    assert one.relative == np.inf
    assert both.relative == 0


# --- what is refused, and the command ------------------------------------------------------------


def test_bundles_that_cannot_be_compared_are_refused(bundles: dict[str, Bundle], tmp_path: Path) -> None:
    clean = bundles["onnx fp32"]
    larger = replace(clean.manifest, input={**clean.manifest.input, "shape": ["N", 1, 64, 64]})
    with pytest.raises(BadInput, match=r"takes 48x48 images, .* 64x64"):
        compared(clean, Bundle(clean.path, larger))
    with pytest.raises(NotAvailable, match="runtime null does not show its intermediate tensors; those that do are"):
        compared(clean, clean, "null")
    with pytest.raises(BadInput, match="runtime pytorch runs pytorch"):
        compared(clean, clean, "pytorch")
    with pytest.raises(BadInput, match="of precision fp8"):
        side(Bundle(clean.path, replace(clean.manifest, precision="fp8")))
    straight = compared(clean, clean, "openvino")  # it reads the ONNX file itself, shapes of biases and all
    assert straight.departs is None
    assert straight.unmatched == {"a": (), "b": ()}
    assert [tracing_runtime(target) for target in ("pytorch", "onnx", "openvino", "tensorrt", "coreml")] == [
        *("pytorch", "onnxruntime", "openvino", "onnxruntime", "coreml-reference")
    ]


def test_nets_without_a_layer_alike_are_refused(bundles: dict[str, Bundle], monkeypatch: pytest.MonkeyPatch) -> None:
    clean = bundles["onnx fp32"]
    real = compare.open_tracer
    monkeypatch.setattr(compare, "open_tracer", lambda *given: lambda images: list(real(*given)(images))[-1:])
    with pytest.raises(BadInput, match="no layer alike"):
        diff(Side(clean, "onnxruntime"), Side(clean, "onnxruntime"), read_reference(clean).images[:1], 1, print)


def test_the_command_names_the_layer_and_writes_json_and_plot(
    bundles: dict[str, Bundle], tmp_path: Path, command: Command, csv_file: Path
) -> None:
    clean = bundles["onnx fp32"]
    wrong = altered(clean, tmp_path, one_percent_off(MIDDLE))
    out = tmp_path / "diff.json", tmp_path / "diff.png"
    done = command("fer-bench", "diff", clean.path, wrong.path, "--threads", 1, "--json", out[0], "--plot", out[1])
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(
        f"error: first departs at {MIDDLE} (conv2d_3) (B: {MIDDLE} (conv2d_3)): relative error "
    )
    marked = [line for line in done.stdout.splitlines() if "│ >" in line]
    assert len(marked) == 1
    assert MIDDLE in marked[0]
    written = json.loads(out[0].read_text())
    assert written["rows"][written["departs"]]["a"].startswith(MIDDLE)
    assert written["verdict"] in done.stderr
    assert Image.open(out[1]).size[0] > 800
    fine = command(
        *(
            "fer-bench",
            "diff",
            clean.path,
            bundles["openvino fp32"].path,
            "--data",
            csv_file,
            "--plot",
            tmp_path / "d.svg",
        )
    )
    assert fine.returncode == 0, fine.stderr
    assert "no layer departs" in fine.stderr
    assert ">net.stages.1.0.reparam_conv</text>" in (tmp_path / "d.svg").read_text()
    refused = command("fer-bench", "diff", clean.path, wrong.path, "--plot", tmp_path / "diff.pdf")
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: ")
    assert not (tmp_path / "diff.pdf").exists()
