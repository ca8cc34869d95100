"""The reference executor for Core ML: each op against PyTorch's, and packages that are not what they should be."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import random_images

from fer_export.pipeline import Source, export
from fer_runtimes.bundle import Bundle, read_bundle, write_manifest
from fer_runtimes.errors import BadInput, CheckFailed
from fer_runtimes.mil.execute import FLOAT16_MAX, Executor
from fer_runtimes.mil.ops import OPS, erf
from fer_runtimes.mil.program import Op, Program, Tensor, read_program
from fer_runtimes.session import Options, open_session

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(2, 6, 9, 8)).astype(np.float32)
Y = RANDOM.normal(size=(2, 6, 9, 8)).astype(np.float32)
W = RANDOM.normal(size=(4, 6, 3, 3)).astype(np.float32)
GROUPED = RANDOM.normal(size=(12, 2, 3, 3)).astype(np.float32)
DEPTHWISE = RANDOM.normal(size=(6, 1, 5, 5)).astype(np.float32)
ROW = RANDOM.normal(size=6).astype(np.float32)
POSITIVE = np.abs(ROW) + 0.1
LAST = RANDOM.normal(size=8).astype(np.float32)
INT8 = RANDOM.integers(-128, 128, (6, 4, 3, 3), dtype=np.int8)
UINT8 = RANDOM.integers(0, 256, (4, 6), dtype=np.uint8)
ZEROS = np.array([3, 0, -7, 100, -128, 9])
t = torch.from_numpy
CUSTOM = {"pad_type": "custom"}


def of_integers(values: np.ndarray, scale: np.ndarray, zero: np.ndarray, axis: int) -> torch.Tensor:
    """What these values stand for: slice by slice, in float64."""
    slices = t(values).double().unbind(axis)
    real = [(one - int(z)) * float(s) for one, s, z in zip(slices, scale, zero, strict=True)]
    return torch.stack(real, axis).float()


# op: (parameters, what PyTorch gives)
CASES: list[tuple[str, dict[str, Any], Any]] = [
    ("add", {"x": X, "y": ROW.reshape(1, -1, 1, 1)}, t(X) + t(ROW).view(1, -1, 1, 1)),
    ("avg_pool", {"x": X, "kernel_sizes": [3, 2], "strides": [2, 2]}, F.avg_pool2d(t(X), (3, 2), 2)),
    (
        "avg_pool",
        {"x": X, "kernel_sizes": [3, 3], "strides": [2, 2], "pad": [1, 1, 1, 1], **CUSTOM},
        F.avg_pool2d(t(X), 3, 2, 1),
    ),
    (
        "avg_pool",
        {"x": X, "kernel_sizes": [3, 3], "strides": [2, 2], "pad": [1, 1, 1, 1], **CUSTOM}
        | {"exclude_padding_from_average": True, "ceil_mode": True},
        F.avg_pool2d(t(X), 3, 2, 1, ceil_mode=True, count_include_pad=False),
    ),
    (
        "batch_norm",
        {"x": X, "mean": ROW, "variance": POSITIVE, "gamma": ROW, "beta": POSITIVE, "epsilon": 1e-3},
        F.batch_norm(t(X), t(ROW), t(POSITIVE), t(ROW), t(POSITIVE), eps=1e-3),
    ),
    ("cast", {"x": X, "dtype": "int32"}, t(X).int()),
    ("clip", {"x": X, "alpha": -0.5, "beta": 1.0}, t(X).clamp(-0.5, 1)),
    ("concat", {"values": [X, Y], "axis": 1}, torch.cat([t(X), t(Y)], 1)),
    (
        "constexpr_affine_dequantize",
        {"quantized_data": INT8, "zero_point": ZEROS.astype(np.int8), "scale": POSITIVE, "axis": 0},
        of_integers(INT8, POSITIVE, ZEROS, 0),
    ),
    (
        "constexpr_affine_dequantize",
        {"quantized_data": UINT8, "zero_point": 131, "scale": POSITIVE, "axis": -1},
        of_integers(UINT8, POSITIVE, np.full(6, 131), 1),
    ),
    (
        "constexpr_affine_dequantize",
        {"quantized_data": INT8, "zero_point": 0, "scale": 0.25, "axis": 0},
        t(INT8).float() / 4,
    ),
    (
        "constexpr_blockwise_shift_scale",
        {"data": INT8, "scale": POSITIVE.reshape(6, 1, 1, 1), "offset": ZEROS.astype(np.int8).reshape(6, 1, 1, 1)},
        of_integers(INT8, POSITIVE, ZEROS, 0),
    ),
    (  # blocks of 2 x 3: each scale for the six values beneath it
        "constexpr_blockwise_shift_scale",
        {"data": UINT8, "scale": W[:2, :2, 0, 0]},
        t(UINT8).float() * torch.kron(t(W[:2, :2, 0, 0]), torch.ones(2, 3)),
    ),
    (
        "dequantize",
        {"input": INT8, "scale": POSITIVE, "zero_point": ZEROS.astype(np.int8), "axis": 0},
        of_integers(INT8, POSITIVE, ZEROS, 0),
    ),
    ("dequantize", {"input": UINT8, "scale": 0.5, "zero_point": 3}, (t(UINT8).float() - 3) / 2),
    (
        "quantize",
        {"input": X, "scale": 0.01, "output_dtype": "int8", "zero_point": 7},
        torch.quantize_per_tensor(t(X), 0.01, 7, torch.qint8).int_repr(),
    ),
    (
        "quantize",
        {"input": W, "scale": POSITIVE[:4], "output_dtype": "uint8", "axis": 0},
        torch.quantize_per_channel(t(W), t(POSITIVE[:4]), torch.zeros(4), 0, torch.quint8).int_repr(),
    ),
    ("conv", {"x": X, "weight": W, "bias": ROW[:4]}, F.conv2d(t(X), t(W), t(ROW[:4]))),
    (
        "conv",
        {"x": X, "weight": W, "strides": [2, 1], "pad": [2, 2, 1, 1], "dilations": [2, 1], **CUSTOM},
        F.conv2d(t(X), t(W), stride=(2, 1), padding=(2, 1), dilation=(2, 1)),
    ),
    ("conv", {"x": X, "weight": GROUPED, "groups": 3}, F.conv2d(t(X), t(GROUPED), groups=3)),
    (
        "conv",
        {"x": X, "weight": DEPTHWISE, "groups": 6, "strides": [2, 2], "pad": [2, 2, 2, 2], **CUSTOM},
        F.conv2d(t(X), t(DEPTHWISE), stride=2, padding=2, groups=6),
    ),
    ("conv", {"x": X, "weight": W, "pad_type": "same"}, F.conv2d(t(X), t(W), padding="same")),
    # an even input at stride 2 needs one row more below than above: "same" after, "same_lower" before
    (
        "conv",
        {"x": X, "weight": W, "strides": [2, 2], "pad_type": "same"},
        F.conv2d(F.pad(t(X), (0, 1, 1, 1)), t(W), stride=2),
    ),
    (
        "conv",
        {"x": X, "weight": W, "strides": [2, 2], "pad_type": "same_lower"},
        F.conv2d(F.pad(t(X), (1, 0, 1, 1)), t(W), stride=2),
    ),
    ("erf", {"x": 4 * X}, torch.erf(4 * t(X))),
    ("exp", {"x": X}, t(X).exp()),
    ("expand_dims", {"x": X, "axes": [1, 3]}, t(X)[:, None, :, None]),
    ("gather", {"x": X, "indices": np.array([2, 0]), "axis": 2}, t(X)[:, :, [2, 0]]),
    ("gelu", {"x": X}, F.gelu(t(X))),
    ("gelu", {"x": X, "mode": "TANH_APPROXIMATION"}, F.gelu(t(X), approximate="tanh")),
    ("gelu", {"x": X, "mode": "SIGMOID_APPROXIMATION"}, t(X) * torch.sigmoid(1.702 * t(X))),
    ("identity", {"x": X}, t(X)),
    (
        "layer_norm",
        {"x": X, "axes": [-1], "gamma": LAST, "beta": LAST, "epsilon": 1e-6},
        F.layer_norm(t(X), (8,), t(LAST), t(LAST), 1e-6),
    ),
    ("leaky_relu", {"x": X, "alpha": 0.2}, F.leaky_relu(t(X), 0.2)),
    ("linear", {"x": X, "weight": Y[0, 0], "bias": Y[0, 0, :, 0]}, F.linear(t(X), t(Y[0, 0]), t(Y[0, 0, :, 0]))),
    (
        "local_response_norm",
        {"x": X, "size": 5, "alpha": 0.1, "beta": 0.75, "k": 2.0},
        F.local_response_norm(t(X), 5, 0.1, 0.75, 2.0),
    ),
    ("matmul", {"x": X, "y": Y, "transpose_y": True}, t(X) @ t(Y).mT),
    ("matmul", {"x": X, "y": Y, "transpose_x": True}, t(X).mT @ t(Y)),
    ("max_pool", {"x": X, "kernel_sizes": [2, 2], "strides": [2, 2]}, F.max_pool2d(t(X), 2)),
    (
        "max_pool",
        {"x": X - 9, "kernel_sizes": [3, 3], "strides": [2, 2], "pad": [1, 1, 1, 1], "ceil_mode": True, **CUSTOM},
        F.max_pool2d(t(X - 9), 3, 2, 1, ceil_mode=True),
    ),
    (
        "max_pool",
        {"x": X, "kernel_sizes": [3, 3], "strides": [2, 2], "ceil_mode": True},
        F.max_pool2d(t(X), 3, 2, ceil_mode=True),
    ),
    ("mul", {"x": X, "y": 2.5}, t(X) * 2.5),
    ("pad", {"x": X, "pad": [1, 2, 0, 3], "constant_val": 7.0}, F.pad(t(X), (0, 3, 1, 2), value=7)),
    ("pad", {"x": X, "pad": [1, 2, 3, 1], "mode": "reflect"}, F.pad(t(X), (3, 1, 1, 2), mode="reflect")),
    ("pad", {"x": X, "pad": [1, 2, 3, 1], "mode": "replicate"}, F.pad(t(X), (3, 1, 1, 2), mode="replicate")),
    ("pow", {"x": X, "y": 2.0}, t(X) ** 2),
    ("real_div", {"x": X, "y": Y}, t(X) / t(Y)),
    ("reduce_max", {"x": X, "axes": [2, 3]}, t(X).amax((2, 3))),
    ("reduce_mean", {"x": X, "axes": [-2, -1], "keep_dims": True}, t(X).mean((2, 3), keepdim=True)),
    ("reduce_sum", {"x": X, "axes": [1]}, t(X).sum(1)),
    ("relu", {"x": X}, F.relu(t(X))),
    ("relu6", {"x": 5 * X}, F.relu6(5 * t(X))),
    ("reshape", {"x": X, "shape": np.array([0, -1, 4])}, t(X).reshape(2, -1, 4)),
    ("rsqrt", {"x": POSITIVE}, t(POSITIVE).rsqrt()),
    ("sigmoid", {"x": 40 * X}, torch.sigmoid(40 * t(X))),
    ("sigmoid_hard", {"x": X, "alpha": 1 / 6, "beta": 0.5}, F.hardsigmoid(t(X))),
    ("silu", {"x": X}, F.silu(t(X))),
    (
        "slice_by_index",
        {"x": X, "begin": [0, 1, 0, -3], "end": [2, 5, 9, 8], "stride": [1, 2, 3, 1]},
        t(X)[:, 1:5:2, ::3, -3:],
    ),
    (
        "slice_by_index",
        {"x": X, "begin": [0, 2, 4, 0], "end": [0, 0, 6, 0]}
        | {"begin_mask": [True, False, True, True], "end_mask": [True, False, False, True]}
        | {"squeeze_mask": [False, True, False, False]},
        t(X)[:, 2, :6],
    ),
    ("slice_by_size", {"x": X, "begin": [0, 1, 2, 3], "size": [-1, 2, 3, -1]}, t(X)[:, 1:3, 2:5, 3:]),
    ("softmax", {"x": 60 * X, "axis": 1}, (60 * t(X)).softmax(1)),
    ("split", {"x": X, "axis": 1, "num_splits": 3}, t(X).split(2, 1)),
    ("split", {"x": X, "axis": 2, "split_sizes": [4, 2, 3]}, t(X).split([4, 2, 3], 2)),
    ("sqrt", {"x": POSITIVE}, t(POSITIVE).sqrt()),
    ("squeeze", {"x": X[:, :1], "axes": [1]}, t(X[:, 0])),
    ("stack", {"values": [X, Y], "axis": 1}, torch.stack([t(X), t(Y)], 1)),
    ("sub", {"x": X, "y": Y}, t(X) - t(Y)),
    ("tanh", {"x": X}, t(X).tanh()),
    ("thresholded_relu", {"x": X, "alpha": -0.5}, torch.where(t(X) >= -0.5, t(X), 0)),
    ("tile", {"x": X, "reps": [1, 2, 1, 3]}, t(X).repeat(1, 2, 1, 3)),
    ("transpose", {"x": X, "perm": [0, 2, 3, 1]}, t(X).permute(0, 2, 3, 1)),
]


def test_every_op_of_the_table_is_tested_here() -> None:
    assert {kind for kind, _, _ in CASES} == set(OPS)


@pytest.mark.parametrize(
    ("kind", "parameters", "expected"), CASES, ids=lambda value: value if isinstance(value, str) else ""
)
def test_an_op_gives_what_pytorch_gives(kind: str, parameters: dict[str, Any], expected: Any) -> None:
    got = OPS[kind](**parameters)
    for one, truth in zip(
        got if isinstance(got, tuple) else (got,), expected if isinstance(expected, tuple) else (expected,), strict=True
    ):
        assert one.dtype == truth.numpy().dtype
        np.testing.assert_allclose(one, truth.numpy(), rtol=2e-5, atol=2e-6)


def test_erf_is_exact_to_twelve_digits() -> None:
    x = np.linspace(-8, 8, 4001)
    np.testing.assert_allclose(erf(x), [math.erf(value) for value in x], atol=1e-12)


def program(kind: str, dtype: str, constant: float) -> Program:
    """x [2] -> kind(x, constant)."""
    out = Tensor("out", dtype, (2,))
    return Program(
        "CoreML6",
        (Tensor("x", "float32", (2,)),),
        ("out",),
        {"y": np.array(constant, np.float32)},
        (Op(kind, {"x": ("x",), "y": ("y",)}, (out,)),),
    )


def test_results_are_rounded_to_the_declared_type() -> None:
    x = np.array([1.0, 3.0], np.float32)
    third = np.float32(1 / 3)
    assert Executor(program("mul", "float32", third))({"x": x})["out"][0] == third
    half = Executor(program("mul", "float16", third))({"x": x})["out"]
    assert half.dtype == np.float32
    np.testing.assert_array_equal(half, (x * third).astype(np.float16).astype(np.float32))
    assert half[0] != third


def test_what_float16_cannot_hold_is_named_and_what_it_could_not_is_remembered() -> None:
    x = np.array([1.0, 700.0], np.float32)
    with pytest.raises(
        CheckFailed, match=r"tensor out \(mul\) reaches 7e\+04, which float16 cannot hold .* --precision fp32"
    ):
        Executor(program("mul", "float16", 100.0))({"x": x})
    single = Executor(program("mul", "float32", 100.0))
    single({"x": x})
    single({"x": x / 2})
    assert single.peaks["out"] == (pytest.approx(7e4), "mul")
    assert single.peaks["out"][0] > FLOAT16_MAX


def test_an_unknown_op_and_a_shape_that_is_not_as_declared_are_named() -> None:
    with pytest.raises(BadInput, match="does not know the MIL op lstm; it knows add, "):
        Executor(program("lstm", "float32", 1.0))
    with pytest.raises(BadInput, match=r"MIL op add gives \[3\] for out, declared \[2\]"):
        Executor(program("add", "float32", 1.0))({"x": np.zeros(3, np.float32)})


@pytest.mark.parametrize("shape", [(3, 5, 7), (3, 1, 1)], ids=["in the weight file", "in the program"])  # odd numbers
@pytest.mark.parametrize("dtype", ["int4", "uint4", "int8", "uint8"])
def test_integers_are_read_as_coremltools_packs_them(dtype: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    import coremltools
    from coremltools.converters.mil.mil import Builder
    from coremltools.converters.mil.mil.types import nptype_from_builtin, string_to_builtin

    bits, signed = int(dtype.lstrip("uint")), not dtype.startswith("u")
    lowest = -(2 ** (bits - 1)) if signed else 0
    values = RANDOM.integers(lowest, lowest + 2**bits, shape).astype(np.int8 if signed else np.uint8)

    @Builder.program(
        input_specs=[Builder.TensorSpec(shape)], opset_version=coremltools.target.iOS18, function_name="main"
    )
    def stored(x: Any) -> Any:
        packed = values.astype(nptype_from_builtin(string_to_builtin(dtype)))
        weight = Builder.constexpr_blockwise_shift_scale(data=packed, scale=np.full((3, 1, 1), 0.5, np.float32))
        return Builder.add(x=x, y=weight, name="out")

    settings = {"minimum_deployment_target": coremltools.target.iOS18, "skip_model_load": True}
    model = coremltools.convert(stored, compute_precision=coremltools.precision.FLOAT32, **settings)
    model.save(str(tmp_path / "it.mlpackage"))
    read = read_program(tmp_path / "it.mlpackage")
    op = next(one for one in read.ops if one.kind == "constexpr_blockwise_shift_scale")
    np.testing.assert_array_equal(read.constants[op.inputs["data"][0]], values)
    out = Executor(read)({"x": np.zeros(shape, np.float32)})["out"]
    np.testing.assert_array_equal(out, values.astype(np.float32) / 2)


def test_notes_name_tensors_beyond_float16(source: Source, tmp_path: Path) -> None:
    import copy

    loud = copy.deepcopy(source)
    convolution = next(module for module in loud.net.net.stages.modules() if isinstance(module, torch.nn.Conv2d))
    following = [module for module in loud.net.net.stages.modules() if isinstance(module, torch.nn.Conv2d)][1]
    convolution.weight.data *= 2.0**17  # ReLU passes the factor on, the next weights take it away: same answers
    convolution.bias.data *= 2.0**17
    following.weight.data *= 2.0**-17
    said: list[str] = []
    export(loud, "coreml", tmp_path, "fp32", said.append)
    assert any("beyond float16's 65504: fp16 would not do" in line for line in said)
    with pytest.raises(CheckFailed, match="which float16 cannot hold"):
        export(loud, "coreml", tmp_path, "fp16")
    assert [path.name for path in tmp_path.iterdir()] == ["fer_mobileone_xs-coreml-fp32"]


@pytest.fixture
def package(bundles: dict[str, Bundle], tmp_path: Path) -> Path:
    """A copy of a fp32 bundle, to be damaged."""
    return Path(shutil.copytree(bundles["coreml fp32"].path, tmp_path / "bundle"))


def rehash(path: Path) -> Bundle:
    """Makes the manifest agree with the files as they are now: what a careful forger would do."""
    return write_manifest(path, json_manifest(path))


def json_manifest(path: Path) -> Any:
    from fer_runtimes.bundle import Manifest

    content = json.loads((path / "manifest.json").read_text())
    return Manifest(**{**content, "labels": tuple(content["labels"])})


def edit(path: Path, change: Callable[[Any], None]) -> None:
    """Changes the protobuf message of a package's program on disk."""
    from coremltools.proto import Model_pb2

    file = path / "model.mlpackage/Data/com.apple.CoreML/model.mlmodel"
    model = Model_pb2.Model()
    model.ParseFromString(file.read_bytes())
    main = model.mlProgram.functions["main"]
    change(main.block_specializations[main.opset])
    file.write_bytes(model.SerializeToString())


def constant_of(block: Any, kind: str, parameter: str) -> Any:
    """The const op that feeds a parameter of the first op of a kind."""
    op = next(one for one in block.operations if one.type == kind)
    name = op.inputs[parameter].arguments[0].name
    return next(one for one in block.operations if one.outputs[0].name == name)


def test_a_package_is_read_without_coremltools_which_may_come_later(package: Path) -> None:
    """The same protobuf classes are then there twice, by two names. (What exports has coremltools first.)"""
    code = """
import sys
from pathlib import Path
from fer_runtimes.mil.program import read_program
package = sys.argv[1]
first = read_program(Path(package))
assert not {"coremltools", "torch"} & set(sys.modules)
import coremltools
assert coremltools.utils.load_spec(package).WhichOneof("Type") == "mlProgram"
assert read_program(Path(package)).ops == first.ops
"""
    done = subprocess.run([sys.executable, "-c", code, package / "model.mlpackage"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_one_altered_byte_of_the_weights_is_refused(package: Path) -> None:
    blob = package / "model.mlpackage/Data/com.apple.CoreML/weights/weight.bin"
    content = bytearray(blob.read_bytes())
    content[len(content) // 2] ^= 1
    blob.write_bytes(content)
    with pytest.raises(BadInput, match=r"weight.bin: its contents are not those that the manifest names"):
        read_bundle(package)


def scale(block: Any) -> None:
    values = constant_of(block, "mul", "y").attributes["val"].immediateValue.tensor.floats.values
    values[0] *= 1.05


def offset(block: Any) -> None:
    values = constant_of(block, "add", "y").attributes["val"].immediateValue.tensor.floats.values
    values[0] += 0.05


@pytest.mark.parametrize("change", [scale, offset])
def test_an_altered_normalisation_fails_parity_though_the_hashes_match(
    package: Path, in_process: Callable[..., Any], change: Callable[[Any], None]
) -> None:
    edit(package, change)
    rehash(package)
    done = in_process("fer-bench", "--runtime", "coreml-reference", "--model", package, "--queries", 12, "--seconds", 0)
    assert done.returncode == 1
    assert "departs from the reference" in done.stderr


def swap_labels(block: Any) -> None:
    classify = next(one for one in block.operations if one.type == "classify")
    first, second = classify.inputs["classes"].arguments[0].value.immediateValue.list.values[:2]
    first.immediateValue.tensor.strings.values[0], second.immediateValue.tensor.strings.values[0] = "disgust", "angry"


def classify_the_least(block: Any) -> None:
    """The label is picked of minus the logits in place of their softmax."""
    constant_of(block, "softmax", "axis").attributes["val"].immediateValue.tensor.ints.values[0] = -1
    softmax = next(one for one in block.operations if one.type == "softmax")
    softmax.type = "mul"
    softmax.inputs["y"].CopyFrom(softmax.inputs["axis"])
    del softmax.inputs["axis"]


def unknown_op(block: Any) -> None:
    next(one for one in block.operations if one.type == "relu").type = "gru"


def weights_elsewhere(block: Any) -> None:
    constant_of(block, "conv", "weight").attributes["val"].blobFileValue.fileName = "@model_path/../../../../secret.bin"


def weights_at_another_place(block: Any) -> None:
    constant_of(block, "conv", "weight").attributes["val"].blobFileValue.offset += 64


def weights_of_another_shape(block: Any) -> None:
    constant_of(block, "conv", "weight").attributes["val"].type.tensorType.dimensions[0].constant.size += 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (swap_labels, "names the classes"),
        (unknown_op, "does not know the MIL op gru"),
        (weights_elsewhere, "outside the package; refused"),
        (weights_at_another_place, "is not one of float32"),
        (weights_of_another_shape, "bear out"),
    ],
)
def test_a_program_that_is_not_as_it_should_be_is_refused_by_name(
    package: Path, change: Callable[[Any], None], message: str
) -> None:
    edit(package, change)
    with pytest.raises(BadInput, match=message):
        open_session(rehash(package), "coreml-reference")


def test_a_label_that_is_not_the_largest_logit_s_is_found(package: Path) -> None:
    edit(package, classify_the_least)
    session = open_session(rehash(package), "coreml-reference", Options())
    with pytest.raises(CheckFailed, match="the class that the package names and its largest logit differ"):
        session.infer(random_images(8))


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("Manifest.json", b"{", "not the list of a Core ML package"),
        (
            "Manifest.json",
            b'{"itemInfoEntries": {"a": {"path": "../../reference.npz"}}, "rootModelIdentifier": "a"}',
            "refused",
        ),
        ("Data/com.apple.CoreML/model.mlmodel", b"\xff\xff\xff", "not a Core ML model"),
        ("Data/com.apple.CoreML/model.mlmodel", b"", "expected an ML Program"),
        ("Data/com.apple.CoreML/weights/weight.bin", b"\0" * 64, "ends before"),
    ],
)
def test_a_damaged_package_is_refused_with_its_name(package: Path, file: str, content: bytes, message: str) -> None:
    (package / "model.mlpackage" / file).write_bytes(content)
    with pytest.raises(BadInput, match=message):
        open_session(rehash(package), "coreml-reference")


def test_the_saved_package_is_what_xcode_expects(bundles: dict[str, Bundle]) -> None:
    import coremltools

    for precision, dtype in (("fp32", "float32"), ("fp16", "float16")):
        bundle = bundles[f"coreml {precision}"]
        spec = coremltools.utils.load_spec(str(bundle.path / "model.mlpackage"))
        image = spec.description.input[0].type.imageType
        assert (image.width, image.height, image.colorSpace) == (48, 48, image.GRAYSCALE)
        assert spec.description.predictedFeatureName == "classLabel"
        assert spec.description.predictedProbabilitiesName == "classLabel_probs"
        assert [one.name for one in spec.description.output] == ["classLabel", "classLabel_probs", "logits"]
        facts = spec.description.metadata
        assert facts.author
        assert facts.license == "MIT"
        assert facts.versionString
        assert facts.userDefined["checkpoint_sha256"] == bundle.manifest.source["checkpoint_sha256"]
        assert facts.userDefined["com.apple.coreml.model.preview.type"] == "imageClassifier"
        program = read_program(bundle.path / "model.mlpackage")
        assert program.opset == "CoreML6"
        assert {op.outputs[0].dtype for op in program.ops if op.kind in ("conv", "linear")} == {dtype}


def test_a_later_system_can_be_asked_for(source: Source, tmp_path: Path) -> None:
    bundle = export(source, "coreml", tmp_path, settings={"deployment_target": "iOS17"})
    assert read_program(bundle.path / "model.mlpackage").opset == "CoreML7"
    assert bundle.manifest.build == {"deployment_target": "iOS17"}
    with pytest.raises(BadInput, match="--deployment-target is 'iOS9'; target coreml takes iOS16, iOS15, iOS17, iOS18"):
        export(source, "coreml", tmp_path, settings={"deployment_target": "iOS9"})
    with pytest.raises(BadInput, match="target onnx takes no --deployment-target; it is for coreml"):
        export(source, "onnx", tmp_path, settings={"deployment_target": "iOS17"})


def test_compute_units_are_core_ml_s_own_names() -> None:
    import coremltools

    from fer_runtimes.engines.coreml import COMPUTE_UNITS

    assert set(COMPUTE_UNITS.values()) == set(coremltools.ComputeUnit.__members__)
