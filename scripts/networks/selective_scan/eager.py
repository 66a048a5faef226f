"""Selective scan in plain PyTorch: differentiable, traceable, in float32 or float64, exact for any step size."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from scripts.networks.selective_scan.exportable import exportable_scan

DIRECTIONS = 4
# Elements of the state history held at once: few enough for a core's cache, enough to amortise the cost of a call.
_CHUNK_ELEMENTS = 2**18


def scan(x: Tensor, projected: Tensor, step_weight: Tensor, step_bias: Tensor, a: Tensor, d: Tensor) -> Tensor:
    """``selective_scan_2d`` on any device, with gradients."""
    return scan_in_order(
        exportable_scan if torch.compiler.is_exporting() else recur, x, projected, step_weight, step_bias, a, d
    )


def scan_in_order(
    recurrence: Callable[..., Tensor],
    x: Tensor,
    projected: Tensor,
    step_weight: Tensor,
    step_bias: Tensor,
    a: Tensor,
    d: Tensor,
) -> Tensor:
    """``selective_scan_2d`` with ``recurrence(x, delta, b, c, a)``, which runs over four sequences.

    Shapes within the recurrence: x and delta (L, 4, B, D), b and c (L, 4, B, N), a (4, D, N), result (L, 4, B, D).
    """
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    states = a.shape[2]
    step, b, c = projected.to(dtype).split([step_weight.shape[2], states, states], dim=-1)
    delta = F.softplus(torch.einsum("bhwkr,kdr->bhwkd", step, step_weight.to(dtype)) + step_bias.to(dtype))
    image = x.to(dtype)
    inputs = image.unsqueeze(3).expand(-1, -1, -1, DIRECTIONS, -1)
    scanned = recurrence(*map(_cross_scan, (inputs, delta, b, c)), a.to(dtype))
    merged = _cross_merge(scanned, x.shape[1], x.shape[2]) + image * d.to(dtype).sum(0)
    return merged.to(x.dtype)


def _cross_scan(values: Tensor) -> Tensor:
    """Reorders (B, H, W, 4, C) in image order to (L, 4, B, C) in the order of each direction."""
    rows = values.permute(1, 2, 3, 0, 4).flatten(0, 1)
    columns = values.permute(2, 1, 3, 0, 4).flatten(0, 1)
    return torch.stack([rows[:, 0], columns[:, 1], rows[:, 2].flip(0), columns[:, 3].flip(0)], dim=1)


def _cross_merge(scanned: Tensor, height: int, width: int) -> Tensor:
    """Sums (L, 4, B, D) in scan order over the directions: (B, H, W, D)."""
    rows = (scanned[:, 0] + scanned[:, 2].flip(0)).unflatten(0, (height, width))
    columns = (scanned[:, 1] + scanned[:, 3].flip(0)).unflatten(0, (width, height))
    return (rows + columns.transpose(0, 1)).permute(2, 0, 1, 3)


def recur(x: Tensor, delta: Tensor, b: Tensor, c: Tensor, a: Tensor) -> Tensor:
    """Recurrence over sequences (L, 4, B, C); differentiable, exact for any step size."""
    return _recurrence(x, delta, b, c, a, _CHUNK_ELEMENTS)


@torch.jit.script_if_tracing  # so that a traced network holds one loop instead of thousands of unrolled steps
def _recurrence(x: Tensor, delta: Tensor, b: Tensor, c: Tensor, a: Tensor, chunk_elements: int) -> Tensor:
    length, directions, batch, channels = x.shape
    states = a.shape[2]
    # States come first, so that the vector loops run over the many channels rather than the few states.
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
