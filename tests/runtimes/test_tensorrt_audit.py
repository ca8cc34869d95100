"""The audit against what TensorRT's inspector writes.

The samples have the keys and words of real output, cut down to a net of two convolutions and a
matrix product: for TensorRT 10 as trtexec --exportLayerInfo prints it (NVIDIA/TensorRT issue 4020,
and the documentation's page "Engine Inspector"), for 11 as its migration guide describes the change
(``Bindings`` to ``I/O Tensors``) and as Polygraphy 0.53.6 reads it (``Datatype`` beside ``Format``).
"""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from fer_runtimes.engines.trt_audit import audit, onnx_nodes
from fer_runtimes.errors import CheckFailed

NODES = ["node_conv2d", "node_conv2d_1", "node_linear"]
FORMATS = {
    "Half": "Channel major FP16 format where channel % 8 == 0",
    "Float": "Row major linear FP32",
    "Int8": "Thirty-two wide channel vectorized row major Int8 format",
    "UInt8": "Row major linear UInt8 format",
}
TACTICS = {
    "Half": "sm80_xmma_fprop_implicit_gemm_f16f16_f16f16_f16_nhwckrsc_nhwc_tilesize128x64x32_stage5_warpsize2x2x1_g1_tensor16x8x16",
    "Float": "sm80_xmma_fprop_implicit_gemm_f32f32_f32f32_f32_nchwkcrs_nchw_simple_small_tilesize64x64x8_stage3_warpsize1x4x1_g1_ffma",
    "Int8": "sm80_xmma_fprop_implicit_gemm_interleaved_i8i8_i8i32_f32_nchw_vect_c_32kcrs_vect_c_32_nchw_vect_c_32_tilesize96x64x64",
}
TF32 = "sm80_xmma_fprop_implicit_gemm_indexed_tf32f32_tf32f32_f32_nhwckrsc_nhwc_tilesize128x64x16_stage4_warpsize2x2x1_g1_tensor16x8x8"


def tensor(version: int, name: str, kind: str, shape: list[int]) -> dict[str, Any]:
    place = {"Name": name, "Location": "Device", "Dimensions": shape}
    if version == 10:
        return place | {"Format/Datatype": FORMATS[kind]}
    return place | {"Datatype": kind, "Format": "kLINEAR"}


def engine(version: int, kind: str) -> dict[str, Any]:
    """The inspector's answer for an engine whose net is in ``kind`` (Half, Float, Int8)."""
    images = tensor(version, "images", "UInt8", [1, 1, 48, 48])
    first = tensor(version, "add_10", kind, [1, 1, 48, 48])
    middle = tensor(version, "relu", kind, [1, 32, 24, 24])
    last = tensor(version, "relu_1", kind, [1, 64, 12, 12])
    logits = tensor(version, "logits", "Float", [1, 7])

    def convolution(name: str, read: dict[str, Any], written: dict[str, Any]) -> dict[str, Any]:
        return {
            "Name": f"{name} + node_relu",
            "LayerType": "CaskConvolution",
            "Inputs": [read],
            "Outputs": [written],
            "ParameterType": "Convolution",
            "Kernel": [3, 3],
            "Groups": 1,
            "Weights": {"Type": kind, "Count": 288},
            "Bias": {"Type": "Float", "Count": 32},
            "Activation": "RELU",
            "TacticName": TACTICS[kind],
            "TacticValue": "0x11bde0e1d9f2f35d",
            "StreamId": 0,
            "Metadata": f"[ONNX Layer: {name}]\x1f[ONNX Layer: node_relu]",
        }

    layers = [
        {
            "Name": "__myl_CastMulAdd_myl0_0",
            "LayerType": "kgen",
            "Inputs": [images],
            "Outputs": [first],
            "TacticName": "__myl_CastMulAdd_0x8b0f6ab2d3a7a1a8",
            "StreamId": 0,
            "Metadata": "[ONNX Layer: node__to_copy]\x1f[ONNX Layer: node_mul_2]\x1f[ONNX Layer: node_add_10]",
        },
        convolution("node_conv2d", first, middle),
        {
            "Name": "Reformatting CopyNode for Input Tensor 0 to node_conv2d_1 + node_relu",
            "LayerType": "Reformat",
            "Inputs": [middle],
            "Outputs": [middle],
            "ParameterType": "Reformat",
            "Origin": "REFORMAT",
            "TacticValue": "0x00000000000003e8",
            "StreamId": 0,
            "Metadata": "",
        },
        convolution("node_conv2d_1", middle, last),
        {
            "Name": "node_linear_myl0_3",
            "LayerType": "gemm",
            "Inputs": [last, tensor(version, "net.head.fc.weight", kind, [7, 64])],
            "Outputs": [logits],
            "TacticName": "sm80_xmma_gemm" if kind != "Half" else "sm80_xmma_gemm_f16f16_f16f16_f16_nn",
            "StreamId": 0,
            "Metadata": "[ONNX Layer: node_linear]",
        },
    ]
    if version == 10:
        return {"Layers": layers, "Bindings": ["images", "logits"]}
    return {"Layers": layers, "I/O Tensors": [{"Name": "images", "IOMode": "Input", "DataType": "UInt8"}]}


PRECISIONS = {"fp32": "Float", "fp16": "Half", "int8": "Int8"}


@pytest.mark.parametrize("version", [10, 11])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_an_engine_that_is_what_was_asked_passes(version: int, precision: str) -> None:
    found = audit(json.dumps(engine(version, PRECISIONS[precision])), precision, NODES)
    assert found.heavy == {precision: 3}
    assert found.layers == 5
    assert found.types == {"kgen": 1, "CaskConvolution": 2, "Reformat": 1, "gemm": 1}
    assert found.untraced == ()


@pytest.mark.parametrize("version", [10, 11])
@pytest.mark.parametrize(
    ("asked", "built", "complaint"),
    [
        ("fp16", "Float", "fp16 engine was asked for and 3 of its 3 convolutions and matrix products are not"),
        ("fp16", "Int8", "fp16 engine was asked for and 3 of its 3"),
        ("fp32", "Half", "fp32 engine was asked for and layer __myl_CastMulAdd_myl0_0 is in fp16"),
        ("fp32", "Int8", "is in int8"),
        ("int8", "Half", "none of its 3 convolutions and matrix products is in int8"),
        ("int8", "Float", "none of its 3"),
    ],
)
def test_an_engine_of_another_precision_fails(version: int, asked: str, built: str, complaint: str) -> None:
    with pytest.raises(CheckFailed, match=complaint):
        audit(json.dumps(engine(version, built)), asked, NODES)


@pytest.mark.parametrize("version", [10, 11])
def test_one_convolution_left_in_float32_fails_an_fp16_engine_and_is_named(version: int) -> None:
    mixed = engine(version, "Half")
    mixed["Layers"][3] = engine(version, "Float")["Layers"][3]
    with pytest.raises(CheckFailed, match=r"1 of its 3 .* are not: node_conv2d_1 \+ node_relu is in fp32"):
        audit(json.dumps(mixed), "fp16", NODES)


def test_a_product_in_a_kernel_of_another_name_is_found_by_its_node() -> None:
    mixed = engine(10, "Half")
    hidden = copy.deepcopy(engine(10, "Float")["Layers"][4])
    mixed["Layers"][4] = hidden | {"Name": "__myl_Fused_myl0_9", "LayerType": "kgen"}
    with pytest.raises(CheckFailed, match="__myl_Fused_myl0_9 is in fp32"):
        audit(json.dumps(mixed), "fp16", NODES)
    assert audit(json.dumps(mixed), "fp16").heavy == {"fp16": 2}  # what the node names are for


def test_a_tf32_kernel_fails_an_fp32_engine() -> None:
    rounded = engine(10, "Float")
    rounded["Layers"][1]["TacticName"] = TF32
    with pytest.raises(CheckFailed, match=r"node_conv2d \+ node_relu computes in TF32"):
        audit(json.dumps(rounded), "fp32", NODES)


def test_types_hidden_by_dynamic_shapes_are_not_taken_for_what_was_asked() -> None:
    hidden = engine(10, "Half")
    for layer in hidden["Layers"]:
        layer.pop("Weights", None)
        for part in layer["Inputs"] + layer["Outputs"]:
            part["Format/Datatype"] = "N/A due to dynamic shapes"
    for precision in PRECISIONS:
        with pytest.raises(CheckFailed, match=r"unknown type|none of its"):
            audit(json.dumps(hidden), precision, NODES)


def test_a_dla_share_of_the_net_is_one_layer_and_counts() -> None:
    on_dla = engine(10, "Half")
    share = on_dla["Layers"][1] | {
        "Name": "{ForeignNode[node_conv2d...node_relu_1]}",
        "LayerType": "DLA",
        "Metadata": "",
    }
    for key in ("Weights", "ParameterType"):
        del share[key]
    on_dla["Layers"] = [on_dla["Layers"][0], share]
    found = audit(json.dumps(on_dla), "fp16", NODES)
    assert found.heavy == {"fp16": 1}
    assert found.untraced == tuple(NODES)
    share["Inputs"] = [tensor(10, "add_10", "Float", [1, 1, 48, 48])]
    with pytest.raises(CheckFailed, match="ForeignNode"):
        audit(json.dumps(on_dla), "fp16", NODES)


@pytest.mark.parametrize(
    ("information", "complaint"),
    [
        ('{"Layers": [{"Name": "node_conv2d"', "gives no list of layers"),
        ("{}", "gives no list of layers"),
        ("[]", "gives no list of layers"),
        ('{"Layers": []}', "profiling verbosity DETAILED"),
        ('{"Layers": ["node_conv2d + node_relu"]}', "profiling verbosity DETAILED"),
        ('{"Layers": [{"Name": "a", "LayerType": "kgen"}]}', "no layer of the engine convolves"),
    ],
)
def test_an_answer_that_tells_nothing_is_a_failure(information: str, complaint: str) -> None:
    with pytest.raises(CheckFailed, match=complaint):
        audit(information, "fp16")


def test_nodes_are_read_from_the_metadata_or_else_from_the_name() -> None:
    assert onnx_nodes("[ONNX Layer: a]\x1f[ONNX Layer: b]", "x + y") == ["a", "b"]
    assert onnx_nodes("", "x + y") == ["x", "y"]
