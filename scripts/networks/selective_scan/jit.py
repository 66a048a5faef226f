"""Selective scan compiled by Numba at the first call: needs no C compiler, about half as fast as native.c.

It works in the same order as native.c, whose comments explain it.
"""

import itertools
import math

import numpy as np
import torch
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic
from torch import Tensor

from scripts.networks.selective_scan.threads import on_all_threads

BLOCK = 96  # channels of a task; a divisor of all widths of VMamba-Tiny
_CHUNK = 32  # tokens

_compiled = njit(fastmath={"contract", "nsz"}, error_model="numpy", nogil=True, cache=True)
_ZERO, _ONE = np.float32(0), np.float32(1)
_TO_INTEGER, _LOWEST, _LOG2E = np.float32(1.5 * 2**23), np.float32(-126), np.float32(math.log2(math.e))
_P5, _P4, _P3 = np.float32(1.3266970636323094e-3), np.float32(9.675459936261177e-3), np.float32(5.550742521882057e-2)
_P2, _P1 = np.float32(2.4022121727466583e-1), np.float32(6.931469440460205e-1)
# Coefficients of 2^f for |f| <= 1/2 above, and of log(1 + e) / e for 0 <= e <= 1 below.
_L9, _L8, _L7 = np.float32(-0.0031639994122087955), np.float32(0.019487686455249786), np.float32(-0.05626952648162842)
_L6, _L5, _L4 = np.float32(0.10532950609922409), np.float32(-0.15263274312019348), np.float32(0.19661018252372742)
_L3, _L2, _L1 = np.float32(-0.24951167404651642), np.float32(0.33329665660858154), np.float32(-0.49999889731407166)
_L0 = _ONE


@intrinsic
def _bits(_context, value):
    """Bits of a float32 as an int32."""
    return types.int32(types.float32), lambda _, builder, __, args: builder.bitcast(args[0], ir.IntType(32))


@intrinsic
def _float(_context, value):
    """Float32 with the bits of an int32."""
    return types.float32(types.int32), lambda _, builder, __, args: builder.bitcast(args[0], ir.FloatType())


@_compiled
def _exp2_of_negative(t):
    t = t if not t < _LOWEST else _LOWEST
    rounded = t + _TO_INTEGER
    f = t - (rounded - _TO_INTEGER)
    p = _P5
    p = p * f + _P4
    p = p * f + _P3
    p = p * f + _P2
    p = p * f + _P1
    p = p * f + _ONE
    return _float(np.int32(_bits(p) + (_bits(rounded) << np.int32(23))))  # type: ignore[call-arg]


@_compiled
def _softplus(v):
    e = _exp2_of_negative(-abs(v) * _LOG2E)
    p = _L9
    p = p * e + _L8
    p = p * e + _L7
    p = p * e + _L6
    p = p * e + _L5
    p = p * e + _L4
    p = p * e + _L3
    p = p * e + _L2
    p = p * e + _L1
    p = p * e + _L0
    return (v if not v < _ZERO else _ZERO) + p * e


@_compiled
def _scan_block(x, projected, step_weight, step_bias, a, y, height, width, first):
    """Scans one block of channels, from ``first`` on, of an image (L, D) and adds the result to ``y`` (L, block)."""
    length, rank, states, block = x.shape[0], step_weight.shape[1], a.shape[1], y.shape[1]
    h = np.empty((states, block), np.float32)
    decay = np.empty((states, block), np.float32)
    weight = np.empty((rank, block), np.float32)
    bias = np.empty(block, np.float32)
    delta = np.empty((_CHUNK, block), np.float32)
    update = np.empty((_CHUNK, block), np.float32)
    where = np.empty(_CHUNK, np.int64)
    for k in range(4):
        h[:] = _ZERO
        decay[:] = a[k, :, first : first + block]
        weight[:] = step_weight[k, :, first : first + block]
        bias[:] = step_bias[k, first : first + block]
        for start in range(0, length, _CHUNK):
            count = min(_CHUNK, length - start)
            for t in range(count):
                token = start + t if k < 2 else length - 1 - start - t
                where[t] = (token % height) * width + token // height if k & 1 else token
            for t in range(count):
                tokens = where[t]
                steps, updates = delta[t], update[t]
                for j in range(block):
                    steps[j] = bias[j]
                for r in range(rank):
                    value = projected[tokens, k, r]
                    weights = weight[r]
                    for j in range(block):
                        steps[j] += weights[j] * value
                for j in range(block):
                    positive = _softplus(steps[j])
                    steps[j] = positive
                    updates[j] = positive * x[tokens, first + j]
            for t in range(count):
                tokens = where[t]
                out, steps, updates = y[tokens], delta[t], update[t]
                for n in range(states):
                    b, c = projected[tokens, k, rank + n], projected[tokens, k, rank + states + n]
                    state, decays = h[n], decay[n]
                    for j in range(block):
                        value = _exp2_of_negative(steps[j] * decays[j]) * state[j] + updates[j] * b
                        state[j] = value
                        out[j] += value * c


@_compiled
def _scan_task(x, projected, step_weight, step_bias, a, d, y, height, width, task):
    blocks = -(-x.shape[2] // BLOCK)
    image, first = task // blocks, task % blocks * BLOCK
    block = min(BLOCK, x.shape[2] - first)
    sums = np.zeros((x.shape[1], block), np.float32)
    _scan_block(x[image], projected[image], step_weight, step_bias, a, sums, height, width, first)
    for token in range(x.shape[1]):
        for j in range(block):
            y[image, token, first + j] = sums[token, j] + d[first + j] * x[image, token, first + j]


def scan(x: Tensor, projected: Tensor, step_weight: Tensor, step_bias: Tensor, a: Tensor, d: Tensor) -> Tensor:
    """``selective_scan_2d`` without gradient; ``x`` is float32 or bfloat16."""
    batch, height, width, channels = x.shape
    y = torch.empty(batch, height * width, channels)
    # Channels come last in the weights too, and exp(v) is computed as 2^(v log2 e).
    arrays = [
        tensor.detach().float().contiguous().numpy()
        for tensor in (
            x.flatten(1, 2),
            projected.flatten(1, 2),
            step_weight.mT,
            step_bias,
            a.mT * math.log2(math.e),
            d.sum(0),
            y,
        )
    ]
    tasks = batch * -(-channels // BLOCK)
    following = itertools.count()  # its next() is atomic, so no two threads take the same task

    def work() -> None:
        while (task := next(following)) < tasks:
            _scan_task(*arrays, height, width, task)  # type: ignore[call-arg]

    on_all_threads(work, at_most=tasks)
    return y.view(x.shape).to(x.dtype)
