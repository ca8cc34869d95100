"""Reads a saved ``.mlpackage``: its MIL program and its weight blob, as they lie on disk.

The protobuf classes are coremltools' own, loaded without coremltools itself, which imports torch and
takes far longer than all that is done here. The weight file is read here, by its published layout
(MILBlob, ``StorageFormat.hpp`` in apple/coremltools): a 64-byte header, then for each tensor a
64-byte record (sentinel 0xDEADBEEF, dtype, size in bytes, offset of the data), all little-endian;
two values of four bits share a byte, the first in its lower half. So nothing of the converter that wrote the package takes part in judging it.
"""

from __future__ import annotations

import json
import logging
import math
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fer_runtimes.errors import BadInput, NotAvailable

_SENTINEL = 0xDEADBEEF
_RECORD = struct.Struct("<IIQQ")
# MILBlob's dtype codes, of those that a file here may hold
_BLOB_DTYPES = {
    1: "float16",
    2: "float32",
    3: "uint8",
    4: "int8",
    6: "int16",
    7: "uint16",
    8: "int4",
    11: "uint4",
    14: "int32",
    15: "uint32",
}
# What numpy holds values of four bits in.
_NIBBLES = {"int4": "int8", "uint4": "uint8"}
# MIL's DataType names
_DTYPES = {
    "BOOL": "bool",
    "FLOAT16": "float16",
    "FLOAT32": "float32",
    "INT4": "int4",
    "INT8": "int8",
    "INT16": "int16",
    "INT32": "int32",
    "INT64": "int64",
    "UINT4": "uint4",
    "UINT8": "uint8",
    "UINT16": "uint16",
    "UINT32": "uint32",
    "STRING": "str",
}


@dataclass(frozen=True)
class Tensor:
    """The declared type of a value: numpy's name of the dtype ("str" for text), and the shape.

    dtype: None where it is no tensor (the dictionary of a classifier's probabilities)
    """

    name: str
    dtype: str | None
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Op:
    """One operation. inputs: for each parameter the names of its values, several where it takes a list."""

    kind: str
    inputs: dict[str, tuple[str, ...]]
    outputs: tuple[Tensor, ...]


@dataclass(frozen=True)
class Program:
    """The main function: constants by name (float16 stays float16), and ops in order of execution."""

    opset: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[str, ...]
    constants: dict[str, Any]
    ops: tuple[Op, ...]


def read_program(package: Path) -> Program:
    """Reads the main function of an ML Program package.

    Raises BadInput if the package is damaged, holds no ML Program, or names data outside itself.
    """
    from google.protobuf.message import DecodeError

    path = _root_model(package)
    model = _messages("Model_pb2").Model()
    try:
        model.ParseFromString(path.read_bytes())
    except DecodeError as error:
        raise BadInput(f"{path}: not a Core ML model ({error}); export the bundle again") from error
    if model.WhichOneof("Type") != "mlProgram":
        raise BadInput(f"{path}: is a {model.WhichOneof('Type')}, expected an ML Program; export it with fer-export")
    functions = model.mlProgram.functions
    if "main" not in functions or functions["main"].opset not in functions["main"].block_specializations:
        raise BadInput(f"{path}: has no main function for its opset; export the bundle again")
    return _Reader(path).function(functions["main"])


def _messages(module: str) -> Any:
    """A module of ``coremltools.proto``. Those import one another relative to their package, so any package of that folder serves."""
    name = f"{__name__}_proto"
    if name not in sys.modules:
        spec = find_spec("coremltools")
        if spec is None or spec.origin is None:
            raise NotAvailable(
                "reading a Core ML package needs coremltools; pip install '.[coreml]' in fer-edge's checkout"
            )
        package = ModuleType(name)
        package.__path__ = [str(Path(spec.origin).parent / "proto")]
        sys.modules[name] = package
    return import_module(f"{name}.{module}")


@contextmanager
def quiet_coremltools() -> Iterator[None]:
    """coremltools warns at import of every newer torch, and off macOS of each part that only macOS has."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _root_model(package: Path) -> Path:
    """The ``.mlmodel`` that the package's own list names as its root."""
    listing = package / "Manifest.json"
    try:
        content = json.loads(listing.read_text(encoding="utf-8"))
        inside = content["itemInfoEntries"][content["rootModelIdentifier"]]["path"]
        path: Path = (package / "Data" / inside).resolve()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{listing}: not the list of a Core ML package ({error}); export the bundle again") from error
    if not path.is_relative_to(package.resolve()) or not path.is_file():
        raise BadInput(f"{listing}: names {inside!r}, which is not a file of the package; refused")
    return path


class _Reader:
    """Turns protobuf messages into arrays. Every message that is not as expected is named."""

    def __init__(self, model: Path) -> None:
        self._model = model
        self._blobs: dict[Path, NDArray[np.uint8]] = {}

    def function(self, function: Any) -> Program:
        block = function.block_specializations[function.opset]
        constants: dict[str, Any] = {}
        ops = []
        for position, message in enumerate(block.operations):
            outputs = tuple(self._tensor(one.name, one.type) for one in message.outputs)
            if len(message.blocks):
                raise BadInput(
                    f"{self._model}: op {message.type!r} holds a block of its own; such programs are not run here"
                )
            if message.type == "const":
                constants[outputs[0].name] = self._value(message.attributes["val"], outputs[0].name)
                continue
            inputs = {}
            for key, argument in message.inputs.items():
                names = []
                for i, binding in enumerate(argument.arguments):
                    name = binding.name or f"{position}.{key}.{i}"
                    if not binding.name:
                        constants[name] = self._value(binding.value, name)
                    names.append(name)
                inputs[key] = tuple(names)
            for key, value in message.attributes.items():  # up to iOS 17 the constexpr ops keep their parameters here
                if key != "name":
                    inputs[key] = (f"{position}.{key}",)
                    constants[f"{position}.{key}"] = self._value(value, f"{position}.{key}")
            ops.append(Op(message.type, inputs, outputs))
        takes = tuple(self._tensor(one.name, one.type) for one in function.inputs)
        return Program(function.opset, takes, tuple(block.outputs), constants, tuple(ops))

    def _tensor(self, name: str, kind: Any) -> Tensor:
        if kind.WhichOneof("type") != "tensorType":
            return Tensor(name, None, ())
        shape = []
        for dimension in kind.tensorType.dimensions:
            if dimension.WhichOneof("dimension") != "constant":
                raise BadInput(f"{self._model}: {name} has a size that is not fixed; such programs are not run here")
            shape.append(int(dimension.constant.size))
        return Tensor(name, self._dtype(kind.tensorType.dataType, name), tuple(shape))

    def _dtype(self, code: int, name: str) -> str | None:
        spelt = _messages("MIL_pb2").DataType.Name(code)
        if spelt not in _DTYPES:
            raise BadInput(f"{self._model}: {name} is of type {spelt}, which is not run here")
        return _DTYPES[spelt]

    def _value(self, value: Any, name: str) -> Any:
        """A number, a text, an array, or a list of them."""
        if value.WhichOneof("value") == "blobFileValue":
            return self._blob(value.blobFileValue, self._tensor(name, value.type))
        immediate = value.immediateValue
        if immediate.WhichOneof("value") == "list":
            return [self._value(one, name) for one in immediate.list.values]
        if immediate.WhichOneof("value") != "tensor":
            raise BadInput(f"{self._model}: {name} is a {immediate.WhichOneof('value')}, expected a tensor or a list")
        tensor = self._tensor(name, value.type)
        field = immediate.tensor.WhichOneof("value")
        values = getattr(immediate.tensor, field).values if field else b""
        if tensor.dtype == "str":
            return str(values[0])
        if isinstance(values, bytes):
            return self._shaped(_unpacked(np.frombuffer(values, np.uint8), tensor), tensor)
        return self._shaped(np.array(values, tensor.dtype), tensor)

    def _blob(self, message: Any, tensor: Tensor) -> NDArray[Any]:
        prefix = "@model_path/"
        path = (self._model.parent / message.fileName.removeprefix(prefix)).resolve()
        if not message.fileName.startswith(prefix) or not path.is_relative_to(self._model.parent.resolve()):
            raise BadInput(f"{self._model}: {tensor.name} lies in {message.fileName!r}, outside the package; refused")
        if path not in self._blobs:
            try:
                self._blobs[path] = np.fromfile(path, np.uint8)
            except OSError as error:
                raise BadInput(f"{path}: cannot be read ({error}); export the bundle again") from error
        blob, offset = self._blobs[path], int(message.offset)
        if offset + _RECORD.size > len(blob):
            raise BadInput(f"{path}: ends before {tensor.name}; export the bundle again")
        sentinel, code, count, start = _RECORD.unpack(blob[offset : offset + _RECORD.size].tobytes())
        if tensor.dtype is None or sentinel != _SENTINEL or _BLOB_DTYPES.get(code) != tensor.dtype:
            raise BadInput(f"{path}: the record of {tensor.name} is not one of {tensor.dtype}; export the bundle again")
        bits = 4 if tensor.dtype in _NIBBLES else 8 * np.dtype(tensor.dtype).itemsize
        if count != -(-bits * math.prod(tensor.shape) // 8) or start + count > len(blob):
            raise BadInput(
                f"{path}: {tensor.name} lies at {start} with {count} bytes, which its shape {list(tensor.shape)} or the file does not bear out"
            )
        return self._shaped(_unpacked(blob[start : start + count], tensor), tensor)

    def _shaped(self, array: NDArray[Any], tensor: Tensor) -> NDArray[Any]:
        if array.size != math.prod(tensor.shape):
            raise BadInput(f"{self._model}: {tensor.name} has {array.size} values for shape {list(tensor.shape)}")
        return array.reshape(tensor.shape)


def _unpacked(content: NDArray[np.uint8], tensor: Tensor) -> NDArray[Any]:
    """The values that bytes stand for, those of four bits one a byte."""
    dtype = str(tensor.dtype)
    if dtype not in _NIBBLES:
        return content.view(dtype)
    high = np.stack([content << 4, content & 0xF0], -1).ravel()[: math.prod(tensor.shape)]
    shifted: NDArray[Any] = high.view(_NIBBLES[dtype]) >> 4  # down again: this spreads the sign
    return shifted
