"""MIL's operations on numpy arrays, as coremltools documents them (``converters/mil/mil/ops/defs``).

Float inputs come as float32, whatever the program declares, and results leave as float32: the
executor rounds them to the declared dtype. Each function takes the op's parameters by their MIL
names; optional ones have MIL's defaults. The table ``OPS`` at the end is what is known.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Array = NDArray[Any]

_DTYPES = {"fp32": np.float32, "fp16": np.float32, "int32": np.int32, "bool": np.bool_}


def conv(
    x: Array,
    weight: Array,
    strides: Sequence[int] = (1, 1),
    pad_type: str = "valid",
    pad: Sequence[int] = (0, 0, 0, 0),
    dilations: Sequence[int] = (1, 1),
    groups: int = 1,
    bias: Array | None = None,
) -> Array:
    """x ``[N, C, H, W]``, weight ``[M, C / groups, kh, kw]``: shifted copies of the image times weights, group by group."""
    filters, _, *kernel = weight.shape
    dilated = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    padded = _padded(x, pad_type, pad, dilated, strides, 0.0)
    height, width = ((padded.shape[2 + i] - dilated[i]) // strides[i] + 1 for i in range(2))
    columns = np.empty((*x.shape[:2], *kernel, height, width), np.float32)
    for i, j in np.ndindex(*kernel):
        top, left = i * dilations[0], j * dilations[1]
        columns[:, :, i, j] = padded[
            :, :, top : top + height * strides[0] : strides[0], left : left + width * strides[1] : strides[1]
        ]
    columns = columns.reshape(len(x), groups, -1, height * width)
    out = (weight.reshape(groups, filters // groups, -1) @ columns).reshape(len(x), filters, height, width)
    return out if bias is None else out + bias.reshape(1, -1, 1, 1)


def constexpr_affine_dequantize(
    quantized_data: Array, zero_point: Array | int, scale: Array | float, axis: int
) -> Array:
    """scale * (q - zero_point) in float32; where those are vectors, one for each index along ``axis``."""
    return dequantize(quantized_data, scale, zero_point, axis % quantized_data.ndim)


def constexpr_blockwise_shift_scale(data: Array, scale: Array, offset: Array | None = None) -> Array:
    """scale * (q - offset) in float32; each scale and offset holds for a block of data, as many as fit along each axis."""
    values = data.astype(np.float32)
    if offset is not None:
        values = values - _spread(offset, data.shape)
    return values * _spread(scale, data.shape)


def quantize(
    input: Array, scale: Array | float, output_dtype: str, zero_point: Array | int = 0, axis: int | None = None
) -> Array:
    """round(x / scale) + zero_point, halves to even, clipped to int8 or uint8; vectors hold one value for each index along ``axis``."""
    zero, step = _along(zero_point, axis, input.ndim), _along(scale, axis, input.ndim)
    limits = np.iinfo(output_dtype)
    return np.clip(np.rint(input / step) + zero, limits.min, limits.max).astype(output_dtype)


def dequantize(input: Array, scale: Array | float, zero_point: Array | int = 0, axis: int | None = None) -> Array:
    """scale * (q - zero_point) in float32, vectors as in ``quantize``."""
    return (input.astype(np.float32) - _along(zero_point, axis, input.ndim)) * _along(scale, axis, input.ndim)


def _along(values: Array | float, axis: int | None, dimensions: int) -> Array:
    made = np.asarray(values, np.float32)
    return made.reshape([-1 if i == axis else 1 for i in range(dimensions)]) if made.ndim and axis is not None else made


def _spread(blocks: Array, shape: Sequence[int]) -> Array:
    out = np.asarray(blocks, np.float32)
    for axis, size in enumerate(shape):
        out = out.repeat(size // out.shape[axis], axis)
    return out


def max_pool(
    x: Array,
    kernel_sizes: Sequence[int],
    strides: Sequence[int] = (1, 1),
    pad_type: str = "valid",
    pad: Sequence[int] = (0, 0, 0, 0),
    ceil_mode: bool = False,
) -> Array:
    """Padding never wins: it is minus infinity."""
    return _windows(x, kernel_sizes, strides, pad_type, pad, ceil_mode, -np.inf).max((-2, -1))


def avg_pool(
    x: Array,
    kernel_sizes: Sequence[int],
    strides: Sequence[int] = (1, 1),
    pad_type: str = "valid",
    pad: Sequence[int] = (0, 0, 0, 0),
    exclude_padding_from_average: bool = False,
    ceil_mode: bool = False,
) -> Array:
    """The divisor is the kernel's area, or, where padding is excluded, what of it lies on the image."""
    total = _windows(x, kernel_sizes, strides, pad_type, pad, ceil_mode, 0.0).sum((-2, -1))
    if not exclude_padding_from_average:
        return total / np.float32(math.prod(kernel_sizes))
    return total / _windows(np.ones_like(x), kernel_sizes, strides, pad_type, pad, ceil_mode, 0.0).sum((-2, -1))


def linear(x: Array, weight: Array, bias: Array | None = None) -> Array:
    """x ``[..., D]``, weight ``[M, D]``."""
    return x @ weight.T if bias is None else x @ weight.T + bias


def matmul(x: Array, y: Array, transpose_x: bool = False, transpose_y: bool = False) -> Array:
    """Batched matrix product, either side transposed in its last two axes."""
    return (x.swapaxes(-1, -2) if transpose_x else x) @ (y.swapaxes(-1, -2) if transpose_y else y)


def batch_norm(
    x: Array, mean: Array, variance: Array, gamma: Array | None = None, beta: Array | None = None, epsilon: float = 1e-5
) -> Array:
    """Over axis 1, with stored statistics."""
    shape = (1, -1) + (1,) * (x.ndim - 2)
    out = (x - mean.reshape(shape)) / np.sqrt(variance.reshape(shape) + np.float32(epsilon))
    return _affine(out, *(None if one is None else one.reshape(shape) for one in (gamma, beta)))


def layer_norm(
    x: Array, axes: Sequence[int], gamma: Array | None = None, beta: Array | None = None, epsilon: float = 1e-5
) -> Array:
    """Over ``axes``, with statistics of the input itself."""
    centred = x - x.mean(tuple(axes), keepdims=True)
    out = centred / np.sqrt(np.square(centred).mean(tuple(axes), keepdims=True) + np.float32(epsilon))
    return _affine(out, gamma, beta)


def softmax(x: Array, axis: int = -1) -> Array:
    """Shifted by the largest value, so that it cannot overflow."""
    raised = np.exp(x - x.max(axis, keepdims=True))
    return raised / raised.sum(axis, keepdims=True)


def sigmoid(x: Array) -> Array:
    """Through tanh, which does not overflow."""
    return np.float32(0.5) * np.tanh(np.float32(0.5) * x) + np.float32(0.5)


def gelu(x: Array, mode: str = "EXACT") -> Array:
    """x times the normal distribution's share below x, exactly or by one of MIL's two approximations."""
    if mode == "TANH_APPROXIMATION":
        return 0.5 * x * (1 + np.tanh(np.float32(math.sqrt(2 / math.pi)) * (x + np.float32(0.044715) * x**3)))
    if mode == "SIGMOID_APPROXIMATION":
        return x * sigmoid(np.float32(1.702) * x)
    return (0.5 * x * (1 + erf(x / math.sqrt(2)))).astype(np.float32)


def erf(x: Array) -> Array:
    """The error function in float64, to 1e-12: cubic Hermite steps between exact values (numpy has none)."""
    at = np.clip(x.astype(np.float64), -6, 6)
    left = np.minimum(((at + 6) / _STEP).astype(np.int64), len(_ERF) - 2)
    t = (at + 6) / _STEP - left
    y0, y1, d0, d1 = _ERF[left], _ERF[left + 1], _ERF_SLOPE[left] * _STEP, _ERF_SLOPE[left + 1] * _STEP
    rise = y1 - y0
    out: Array = y0 + t * (d0 + t * (3 * rise - 2 * d0 - d1 + t * (d0 + d1 - 2 * rise)))
    return out


_STEP = 12 / 8192
_GRID = np.arange(8193) * _STEP - 6
_ERF = np.array([math.erf(value) for value in _GRID])
_ERF_SLOPE = 2 / math.sqrt(math.pi) * np.exp(-np.square(_GRID))


def reshape(x: Array, shape: Sequence[int]) -> Array:
    """-1 is what is left over; 0 keeps the size of that axis."""
    return x.reshape([x.shape[i] if size == 0 else int(size) for i, size in enumerate(shape)])


def slice_by_index(
    x: Array,
    begin: Sequence[int],
    end: Sequence[int],
    stride: Sequence[int] | None = None,
    begin_mask: Sequence[bool] | None = None,
    end_mask: Sequence[bool] | None = None,
    squeeze_mask: Sequence[bool] | None = None,
) -> Array:
    """Masks: start from the beginning, run to the end, keep ``begin`` alone and drop the axis."""
    no = [False] * len(begin)
    keys: list[slice | int] = []
    for i in range(len(begin)):
        if (squeeze_mask if squeeze_mask is not None else no)[i]:
            keys.append(int(begin[i]))
            continue
        first = None if (begin_mask if begin_mask is not None else no)[i] else int(begin[i])
        last = None if (end_mask if end_mask is not None else no)[i] else int(end[i])
        keys.append(slice(first, last, 1 if stride is None else int(stride[i])))
    return np.asarray(x[tuple(keys)])


def split(
    x: Array, axis: int, num_splits: int | None = None, split_sizes: Sequence[int] | None = None
) -> tuple[Array, ...]:
    """Equal parts, or parts of the given sizes."""
    cuts: Any = num_splits if split_sizes is None else np.cumsum(split_sizes)[:-1]
    return tuple(np.split(x, cuts, axis))


def pad(x: Array, pad: Sequence[int], mode: str = "constant", constant_val: float = 0.0) -> Array:
    """Pairs (before, after) for the last axes."""
    pairs = [(0, 0)] * (x.ndim - len(pad) // 2) + list(zip(pad[::2], pad[1::2], strict=True))
    if mode == "constant":
        return np.pad(x, pairs, constant_values=constant_val)
    return np.pad(x, pairs, mode="reflect" if mode == "reflect" else "edge")


def local_response_norm(x: Array, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> Array:
    """Across channels, x / (k + alpha / size * sum of squares in the window) ** beta."""
    squares = np.pad(np.square(x), [(0, 0), (size // 2, (size - 1) // 2)] + [(0, 0)] * (x.ndim - 2))
    return x / (k + alpha / size * sliding_window_view(squares, size, 1).sum(-1)) ** np.float32(beta)


def _affine(x: Array, gamma: Array | None, beta: Array | None) -> Array:
    x = x if gamma is None else x * gamma
    return x if beta is None else x + beta


def _padded(
    x: Array, pad_type: str, pad: Sequence[int], kernel: Sequence[int], strides: Sequence[int], value: float
) -> Array:
    if pad_type == "valid":
        return x
    if pad_type == "custom":
        pairs = list(zip(pad[::2], pad[1::2], strict=True))
    else:  # "same" puts the odd pixel after, "same_lower" before
        pairs = []
        for size, k, s in zip(x.shape[2:], kernel, strides, strict=True):
            total = max((math.ceil(size / s) - 1) * s + k - size, 0)
            less, more = total // 2, total - total // 2
            pairs.append((less, more) if pad_type == "same" else (more, less))
    return np.pad(x, [(0, 0), (0, 0), *pairs], constant_values=value)


def _windows(
    x: Array, kernel: Sequence[int], strides: Sequence[int], pad_type: str, pad: Sequence[int], ceil: bool, value: float
) -> Array:
    """``[N, C, H', W', kh, kw]``. ceil: PyTorch's, a last window may hang over but must start on image or left padding."""
    pads = list(pad) if pad_type == "custom" else [0] * 4
    padded = _padded(x, pad_type, pad, kernel, strides, value)
    if ceil:
        extra = []
        for axis in range(2):
            size, k, s = padded.shape[2 + axis], kernel[axis], strides[axis]
            count = math.ceil((size - k) / s) + 1
            if (count - 1) * s >= x.shape[2 + axis] + pads[2 * axis]:
                count -= 1
            extra.append((0, max((count - 1) * s + k - size, 0)))
        padded = np.pad(padded, [(0, 0), (0, 0), *extra], constant_values=value)
    return sliding_window_view(padded, tuple(kernel), (2, 3))[:, :, :: strides[0], :: strides[1]]


OPS: dict[str, Callable[..., Array | tuple[Array, ...]]] = {
    "add": lambda x, y: x + y,
    "avg_pool": avg_pool,
    "batch_norm": batch_norm,
    "cast": lambda x, dtype: x.astype(_DTYPES[dtype]),
    "clip": lambda x, alpha, beta: np.clip(x, alpha, beta),
    "concat": lambda values, axis, interleave=False: np.concatenate(values, axis),
    "constexpr_affine_dequantize": constexpr_affine_dequantize,
    "constexpr_blockwise_shift_scale": constexpr_blockwise_shift_scale,
    "conv": conv,
    "dequantize": dequantize,
    "erf": lambda x: erf(x).astype(np.float32),
    "exp": lambda x: np.exp(x),
    "expand_dims": lambda x, axes: np.expand_dims(x, tuple(axes)),
    "gather": lambda x, indices, axis=0, batch_dims=0, validate_indices=False: np.take(x, indices, axis),
    "gelu": gelu,
    "identity": lambda x: x,
    "layer_norm": layer_norm,
    "leaky_relu": lambda x, alpha=0.01: np.where(x >= 0, x, alpha * x),
    "linear": linear,
    "local_response_norm": local_response_norm,
    "matmul": matmul,
    "max_pool": max_pool,
    "mul": lambda x, y: x * y,
    "pad": pad,
    "pow": lambda x, y: x**y,
    "quantize": quantize,
    "real_div": lambda x, y: x / y,
    "reduce_max": lambda x, axes=None, keep_dims=False: x.max(_axes(axes), keepdims=keep_dims),
    "reduce_mean": lambda x, axes=None, keep_dims=False: x.mean(_axes(axes), keepdims=keep_dims),
    "reduce_sum": lambda x, axes=None, keep_dims=False: x.sum(_axes(axes), keepdims=keep_dims),
    "relu": lambda x: np.maximum(x, 0),
    "relu6": lambda x: np.clip(x, 0, 6),
    "reshape": reshape,
    "rsqrt": lambda x, epsilon=1e-12: 1 / np.sqrt(x + np.float32(epsilon)),
    "sigmoid": sigmoid,
    "sigmoid_hard": lambda x, alpha=0.2, beta=0.5: np.clip(alpha * x + beta, 0, 1),
    "silu": lambda x: x * sigmoid(x),
    "slice_by_index": slice_by_index,
    "slice_by_size": lambda x, begin, size: x[
        tuple(slice(b, None if s == -1 else b + s) for b, s in zip(begin, size, strict=True))
    ],
    "softmax": softmax,
    "split": split,
    "sqrt": lambda x: np.sqrt(x),
    "squeeze": lambda x, axes=None: x.squeeze(_axes(axes)),
    "stack": lambda values, axis: np.stack(values, axis),
    "sub": lambda x, y: x - y,
    "tanh": lambda x: np.tanh(x),
    "thresholded_relu": lambda x, alpha=1.0: np.where(x >= alpha, x, 0),
    "tile": lambda x, reps: np.tile(x, reps),
    "transpose": lambda x, perm: x.transpose(tuple(perm)),
}


def _axes(axes: Sequence[int] | None) -> tuple[int, ...] | None:
    return None if axes is None else tuple(int(axis) for axis in axes)
