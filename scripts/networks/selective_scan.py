"""The selective scan of VMamba (S6 along four directions of an image), behind one function.

``selective_scan_2d`` is the only door: mamba-ssm's CUDA kernel serves CUDA tensors where it is installed, a plain
PyTorch recurrence serves everything else. Both compute in float32, or float64 for float64 inputs on the PyTorch path.
"""

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from scripts.networks.exportable_scan import exportable_scan

DIRECTIONS = 4
# Elements of the state history that are held at once: few enough to stay in a core's cache, enough to amortise a call.
_CHUNK_ELEMENTS = 2**18


def selective_scan_2d(x: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """Scans an image along rows, columns and both in reverse, and sums the four results (cross-scan and cross-merge).

    Along direction k: ``h_l = exp(delta_l a) h_{l-1} + delta_l b_l x_l`` and ``y_l = <c_l, h_l> + d x_l``.

    Args:
        x: (B, H, W, D) input.
        delta: (B, H, W, 4, D) positive step sizes, after softplus, in image order for every direction.
        a: (4, D, N) negative state matrix.
        b: (B, H, W, 4, N) input matrix, shared by the D channels of a direction.
        c: (B, H, W, 4, N) output matrix, likewise.
        d: (4, D) skip connection.

    Returns:
        (B, H, W, D), in the dtype of ``x``.
    """
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    with torch.autocast(x.device.type, enabled=False):
        image, delta, b, c = x.to(dtype), delta.to(dtype), b.to(dtype), c.to(dtype)
        inputs = image.unsqueeze(3).expand(-1, -1, -1, DIRECTIONS, -1)
        kernel = _cuda_kernel() if x.is_cuda and dtype == torch.float32 else None
        scan = exportable_scan if torch.compiler.is_exporting() else kernel or _scan_torch
        scanned = scan(_cross_scan(inputs), _cross_scan(delta), _cross_scan(b), _cross_scan(c), a.to(dtype))
        merged = _cross_merge(scanned, x.shape[1], x.shape[2]) + image * d.to(dtype).sum(0)
    return merged.to(x.dtype)


def _cross_scan(values: Tensor) -> Tensor:
    """(B, H, W, 4, C) in image order -> (L, 4, B, C) in the order of each direction."""
    rows = values.permute(1, 2, 3, 0, 4).flatten(0, 1)
    columns = values.permute(2, 1, 3, 0, 4).flatten(0, 1)
    return torch.stack([rows[:, 0], columns[:, 1], rows[:, 2].flip(0), columns[:, 3].flip(0)], dim=1)


def _cross_merge(scanned: Tensor, height: int, width: int) -> Tensor:
    """(L, 4, B, D) in scan order -> (B, H, W, D), summed over the directions."""
    rows = (scanned[:, 0] + scanned[:, 2].flip(0)).unflatten(0, (height, width))
    columns = (scanned[:, 1] + scanned[:, 3].flip(0)).unflatten(0, (width, height))
    return (rows + columns.transpose(0, 1)).permute(2, 0, 1, 3)


def _scan_torch(x: Tensor, delta: Tensor, b: Tensor, c: Tensor, a: Tensor) -> Tensor:
    """The recurrence for sequences (L, 4, B, C); differentiable, exact for any step size."""
    return _recurrence(x, delta, b, c, a, _CHUNK_ELEMENTS)


@torch.jit.script_if_tracing  # a traced network keeps one loop instead of thousands of unrolled steps
def _recurrence(x: Tensor, delta: Tensor, b: Tensor, c: Tensor, a: Tensor, chunk_elements: int) -> Tensor:
    length, directions, batch, channels = x.shape
    states = a.shape[2]
    # States lead, so that the vector loops run over the (many) channels rather than the (few) states.
    decay = a.permute(2, 0, 1).unsqueeze(2)  # (N, 4, 1, D)
    b = b.permute(0, 3, 1, 2).unsqueeze(4)  # (L, N, 4, B, 1)
    c = c.permute(0, 3, 1, 2).unsqueeze(4)
    h = torch.zeros([states, directions, batch, channels], dtype=x.dtype, device=x.device)
    chunk = max(1, chunk_elements // max(1, h.numel()))
    outputs: list[Tensor] = []
    for start in range(0, length, chunk):
        stop = min(start + chunk, length)
        steps = delta[start:stop].unsqueeze(1)  # (T, 1, 4, B, D)
        factors = torch.exp(steps * decay).unbind(0)
        updates = (steps * x[start:stop].unsqueeze(1) * b[start:stop]).unbind(0)
        history: list[Tensor] = []
        for t in range(stop - start):
            h = torch.addcmul(updates[t], factors[t], h)
            history.append(h)
        outputs.append((torch.stack(history) * c[start:stop]).sum(1))
    return torch.cat(outputs)


@functools.cache
def _cuda_kernel() -> Callable[..., Tensor] | None:
    """mamba-ssm's kernel with the signature of ``_scan_torch``, or None where it is not installed."""
    try:  # mamba-ssm installs without its extension on machines without nvcc, so only importing tells
        from mamba_ssm.ops.selective_scan_interface import selective_scan_fn
    except ImportError:
        return None

    def scan(x: Tensor, delta: Tensor, b: Tensor, c: Tensor, a: Tensor) -> Tensor:
        _length, directions, _batch, channels = x.shape
        fused = [values.permute(2, 1, 3, 0).flatten(1, 2).contiguous() for values in (x, delta)]
        shared = [values.permute(2, 1, 3, 0).contiguous() for values in (b, c)]  # (B, 4, N, L)
        y = selective_scan_fn(*fused, a.flatten(0, 1).contiguous(), *shared)
        return y.unflatten(1, (directions, channels)).permute(3, 1, 0, 2)

    return scan
