"""Selective scan of VMamba (S6 along four directions of an image) behind one function.

``selective_scan_2d`` picks one of several implementations, each in a file of its own. PyTorch (``torch``) runs
everywhere and is the only one with gradients. CPUs have two compiled ones, C where there is a compiler (``native``)
and ``numba``; CUDA has mamba-ssm's kernel (``mamba_ssm``) and one in Triton (``triton``). All compute in float32, and
PyTorch also in float64, for float64 inputs.
"""

import functools
import logging
import os
from collections.abc import Callable

import torch
from torch import Tensor

from scripts.networks.selective_scan import cuda, eager
from scripts.networks.selective_scan.eager import DIRECTIONS

__all__ = ["DIRECTIONS", "backend", "cpu_backends", "selective_scan_2d"]

logger = logging.getLogger(__name__)

Scan = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]

VARIABLE = "SELECTIVE_SCAN"  # environment variable with the name of the implementation to use


def selective_scan_2d(
    x: Tensor, projected: Tensor, step_weight: Tensor, step_bias: Tensor, a: Tensor, d: Tensor
) -> Tensor:
    """Scans an image along rows, columns and the reverse of both, and sums the results (cross-scan and cross-merge).

    Along each direction: ``h_l = exp(delta_l a) h_{l-1} + delta_l b_l x_l`` and ``y_l = <c_l, h_l> + d x_l``, where
    ``delta_l = softplus(step_weight step_l + step_bias)`` (VMamba, sections 3 and 4.2).

    Args:
        x: Input, (B, H, W, D).
        projected: ``step`` (R), ``b`` (N) and ``c`` (N) of each pixel and direction, (B, H, W, 4, R + 2N), in image
            order for every direction; the D channels of a direction share b and c.
        step_weight: Weight of the step size, (4, D, R).
        step_bias: Bias of the step size, (4, D).
        a: State matrix, (4, D, N), negative.
        d: Skip connection, (4, D).

    Returns:
        Output, (B, H, W, D), in the dtype of ``x``.

    Raises:
        ValueError: If the environment variable SELECTIVE_SCAN names an unknown implementation, or one that does not
            run here.

    >>> x, projected, bias = torch.rand(1, 4, 4, 8), torch.rand(1, 4, 4, 4, 3 + 2 * 2), torch.zeros(4, 8)
    >>> selective_scan_2d(x, projected, torch.rand(4, 8, 3), bias, -torch.rand(4, 8, 2), torch.ones(4, 8)).shape
    torch.Size([1, 4, 4, 8])
    """
    arguments = (x, projected, step_weight, step_bias, a, d)
    wants_gradient = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in arguments)
    with torch.autocast(x.device.type, enabled=False):
        captured = torch.jit.is_tracing() or torch.compiler.is_compiling() or torch.compiler.is_exporting()
        if wants_gradient or captured or x.dtype == torch.float64:
            return eager.scan(*arguments)
        return backend(x.device.type)[1](*arguments)


def backend(device: str) -> tuple[str, Scan]:
    """Name and function of the implementation without gradient for a device type (``"cpu"``, ``"cuda"``)."""
    return _backend(device, os.environ.get(VARIABLE, ""))


@functools.cache
def _backend(device: str, asked: str) -> tuple[str, Scan]:
    forms = _FORMS.get(device, {}) | {"torch": _torch}
    if asked and asked not in forms:
        raise ValueError(f"{VARIABLE}={asked} in the environment: {device} has {', '.join(forms)}.")
    reasons = []
    for name in [asked] if asked else forms:
        try:
            scan = forms[name]()
        except (RuntimeError, ImportError) as error:
            if asked:
                raise ValueError(f"{VARIABLE}={asked} in the environment, but {error}.") from error
            reasons.append(f"{name}: {error}")
            continue
        if reasons:
            logger.warning("The selective scan falls back to the slower '%s': %s.", name, "; ".join(reasons))
        return name, scan
    raise AssertionError("unreachable: PyTorch runs everywhere")


def cpu_backends() -> dict[str, Scan]:
    """Implementations that run on this CPU, by name, the fastest first."""
    found = {}
    for name, load in (_FORMS["cpu"] | {"torch": _torch}).items():
        try:
            found[name] = load()
        except (RuntimeError, ImportError) as error:
            logger.info("The selective scan '%s' does not run here: %s", name, error)
    return found


def _native() -> Scan:
    from scripts.networks.selective_scan import native

    native.library()
    return native.scan


def _numba() -> Scan:
    from scripts.networks.selective_scan import jit  # Numba may be missing, and takes half a second to import

    return jit.scan


def _mamba_ssm() -> Scan:
    cuda.kernel()
    return cuda.scan


def _triton() -> Scan:
    from scripts.networks.selective_scan import triton_kernel

    triton_kernel.check()
    return triton_kernel.scan


def _torch() -> Scan:
    return eager.scan


_FORMS: dict[str, dict[str, Callable[[], Scan]]] = {
    "cpu": {"native": _native, "numba": _numba},
    "cuda": {"mamba_ssm": _mamba_ssm, "triton": _triton},
}
