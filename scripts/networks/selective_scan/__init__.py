"""The selective scan of VMamba (S6 along four directions of an image), behind one function.

``selective_scan_2d`` is the only door. Behind it are, each in a file of its own: PyTorch (``torch``), which serves
everything and alone knows gradients; compiled forms for CPUs, C where a compiler is found (``native``) and ``numba``;
and for CUDA mamba-ssm's kernel (``mamba_ssm``) or one in Triton (``triton``). All compute in float32, PyTorch in
float64 for float64 inputs.
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

VARIABLE = "SELECTIVE_SCAN"  # of the environment: the one form to take, by name


def selective_scan_2d(
    x: Tensor, projected: Tensor, step_weight: Tensor, step_bias: Tensor, a: Tensor, d: Tensor
) -> Tensor:
    """Scans an image along rows, columns and both in reverse, and sums the four results (cross-scan and cross-merge).

    Along direction k: ``h_l = exp(delta_l a) h_{l-1} + delta_l b_l x_l`` and ``y_l = <c_l, h_l> + d x_l``, where
    ``delta_l = softplus(step_weight step_l + step_bias)`` (VMamba, section 3 and 4.2).

    Args:
        x: (B, H, W, D) input.
        projected: (B, H, W, 4, R + 2N): of every pixel and direction ``step`` (R), ``b`` (N) and ``c`` (N), in image
            order for every direction; b and c are shared by the D channels of a direction.
        step_weight: (4, D, R).
        step_bias: (4, D).
        a: (4, D, N) negative state matrix.
        d: (4, D) skip connection.

    Returns:
        (B, H, W, D), in the dtype of ``x``.

    Raises:
        ValueError: if the environment's SELECTIVE_SCAN names no form, or one that does not run here.
    """
    arguments = (x, projected, step_weight, step_bias, a, d)
    wants_gradient = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in arguments)
    with torch.autocast(x.device.type, enabled=False):
        captured = torch.jit.is_tracing() or torch.compiler.is_compiling() or torch.compiler.is_exporting()
        if wants_gradient or captured or x.dtype == torch.float64:
            return eager.scan(*arguments)
        return backend(x.device.type)[1](*arguments)


def backend(device: str) -> tuple[str, Scan]:
    """Name and function of the form without gradient for a type of device (``"cpu"``, ``"cuda"``)."""
    return _backend(device, os.environ.get(VARIABLE, ""))


@functools.cache
def _backend(device: str, asked: str) -> tuple[str, Scan]:
    forms = _FORMS.get(device, {}) | {"torch": _torch}
    if asked and asked not in forms:
        raise ValueError(f"{VARIABLE}={asked} in the environment: on {device} there are {', '.join(forms)}.")
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
            logger.warning("The selective scan runs as '%s', more slowly, as %s.", name, "; ".join(reasons))
        return name, scan
    raise AssertionError("unreachable: PyTorch serves everything")


def cpu_backends() -> dict[str, Scan]:
    """The forms that run on this CPU, by name, the fastest first."""
    found = {}
    for name, load in (_FORMS["cpu"] | {"torch": _torch}).items():
        try:
            found[name] = load()
        except (RuntimeError, ImportError) as error:
            logger.info("No selective scan '%s': %s", name, error)
    return found


def _native() -> Scan:
    from scripts.networks.selective_scan import native

    native.library()
    return native.scan


def _numba() -> Scan:
    from scripts.networks.selective_scan import jit  # Numba, which takes half a second to import, may be missing

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
