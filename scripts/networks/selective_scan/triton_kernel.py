"""Selective scan in Triton, for CUDA without mamba-ssm.

Each program walks along one direction of an image with the states of a block of channels in registers. It reads the
image in place, so nothing is copied into scan order.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from scripts.networks.selective_scan import eager

_BLOCK = 32  # channels of a program


@triton.jit
def _scan(
    x,
    projected,
    step_weight,
    step_bias,
    a,
    y,
    height,
    width,
    channels,
    rank: tl.constexpr,
    states: tl.constexpr,
    padded_rank: tl.constexpr,
    padded_states: tl.constexpr,
    block: tl.constexpr,
):
    image, k = tl.program_id(0).to(tl.int64), tl.program_id(1)
    channel = tl.program_id(2) * block + tl.arange(0, block)
    r, n = tl.arange(0, padded_rank), tl.arange(0, padded_states)
    inside = channel < channels
    length, row = height * width, rank + 2 * states
    rows = k * channels + channel
    weight = tl.load(
        step_weight + rows[:, None] * rank + r[None, :], mask=inside[:, None] & (r[None, :] < rank), other=0.0
    )
    bias = tl.load(step_bias + rows, mask=inside, other=0.0)
    decay = tl.load(a + rows[:, None] * states + n[None, :], mask=inside[:, None] & (n[None, :] < states), other=0.0)
    h = tl.zeros((block, padded_states), tl.float32)
    for position in range(length):
        # Direction 0 runs along rows, 1 along columns, 2 and 3 the same way backwards.
        forward = position if k < 2 else length - 1 - position
        token = forward if k % 2 == 0 else (forward % height) * width + forward // height
        at = (image * length + token) * 4 + k
        step = tl.load(projected + at * row + r, mask=r < rank, other=0.0)
        b = tl.load(projected + at * row + rank + n, mask=n < states, other=0.0)
        c = tl.load(projected + at * row + rank + states + n, mask=n < states, other=0.0)
        u = tl.load(x + (image * length + token) * channels + channel, mask=inside, other=0.0).to(tl.float32)
        raw = tl.sum(weight * step[None, :], axis=1) + bias
        # softplus: log(1 + e) by Kahan's product, which recovers the digits that 1 + e loses
        e = tl.exp(-tl.abs(raw))
        one_more = 1.0 + e
        log1p = tl.where(one_more == 1.0, e, tl.log(one_more) * (e / (one_more - 1.0)))
        delta = tl.maximum(raw, 0.0) + log1p
        h = tl.exp2(delta[:, None] * decay) * h + (delta * u)[:, None] * b[None, :]
        tl.store(y + at * channels + channel, tl.sum(h * c[None, :], axis=1), mask=inside)


def check(device: str = "cuda") -> None:
    """Compares the kernel with PyTorch on random input.

    Raises:
        RuntimeError: If the kernel does not run on this device, or its results differ.
    """
    g = torch.Generator().manual_seed(0)
    shapes = ((2, 3, 5, 40), (2, 3, 5, 4, 3 + 2 * 16), (4, 40, 3), (4, 40), (4, 40, 16), (4, 40))
    x, projected, step_weight, step_bias, a, d = (torch.randn(*shape, generator=g).to(device) for shape in shapes)
    arguments = (x, projected, step_weight, step_bias, -a.exp(), d)
    try:
        found, expected = scan(*arguments), eager.scan(*arguments)
    except Exception as error:  # Triton compiles at this point, with the driver of the machine
        raise RuntimeError(f"the Triton kernel does not run ({type(error).__name__}: {error})") from error
    if not torch.allclose(found, expected, rtol=1e-3, atol=1e-4):
        raise RuntimeError(f"the Triton kernel is off by {(found - expected).abs().max():.1g}")


def scan(x: Tensor, projected: Tensor, step_weight: Tensor, step_bias: Tensor, a: Tensor, d: Tensor) -> Tensor:
    """``selective_scan_2d`` without gradient, for float32, bfloat16 or float16."""
    batch, height, width, channels = x.shape
    rank, states = step_weight.shape[2], a.shape[2]
    y = torch.empty(batch, height, width, 4, channels, device=x.device)
    tensors = (projected, step_weight, step_bias, a * math.log2(math.e))
    _scan[(batch, 4, triton.cdiv(channels, _BLOCK))](
        x.contiguous(),
        *(tensor.float().contiguous() for tensor in tensors),
        y,
        height,
        width,
        channels,
        rank,
        states,
        triton.next_power_of_2(rank),
        triton.next_power_of_2(states),
        _BLOCK,
    )
    return (y.sum(3) + x.float() * d.float().sum(0)).to(x.dtype)
