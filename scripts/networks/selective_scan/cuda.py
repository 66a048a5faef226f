"""Selective scan with mamba-ssm's CUDA kernel."""

import functools
from collections.abc import Callable

from torch import Tensor

from scripts.networks.selective_scan.eager import scan_in_order


def scan(x: Tensor, projected: Tensor, step_weight: Tensor, step_bias: Tensor, a: Tensor, d: Tensor) -> Tensor:
    """``selective_scan_2d`` for CUDA tensors in float32, bfloat16 or float16.

    Raises:
        RuntimeError: If mamba-ssm is not installed with its kernel.
    """
    return scan_in_order(_recur, x, projected, step_weight, step_bias, a, d)


def _recur(x: Tensor, delta: Tensor, b: Tensor, c: Tensor, a: Tensor) -> Tensor:
    channels = x.shape[3]
    fused = [values.permute(2, 1, 3, 0).flatten(1, 2).contiguous() for values in (x, delta)]
    shared = [values.permute(2, 1, 3, 0).contiguous() for values in (b, c)]  # (B, 4, N, L)
    y = kernel()(*fused, a.flatten(0, 1).contiguous(), *shared)
    return y.unflatten(1, (-1, channels)).permute(3, 1, 0, 2)


@functools.cache
def kernel() -> Callable[..., Tensor]:
    """mamba-ssm's ``selective_scan_fn``.

    Raises:
        RuntimeError: If mamba-ssm is missing, or was installed without its extension, as on machines without nvcc.
    """
    try:
        from mamba_ssm.ops.selective_scan_interface import selective_scan_fn
    except ImportError as error:
        raise RuntimeError(f"mamba-ssm is not installed with its CUDA kernel ({error})") from error
    return selective_scan_fn
