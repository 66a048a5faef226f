"""Selective scan in C, built by the compiler of this machine for its own processor.

It is built once for each combination of source, compiler and processor, and cached in
``$XDG_CACHE_HOME/medical_anomaly_pdd`` (by default under ``~/.cache``).
"""

import ctypes
import functools
import hashlib
import math
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from scripts.files import replacing
from scripts.networks.selective_scan.threads import on_all_threads

_SOURCE = Path(__file__).with_name("native.c")
_FLAGS = ("-O3", "-march=native", "-ffp-contract=fast", "-shared", "-fPIC")
_ALIGNMENT = 64  # bytes, for the widest vectors


class _Scan(ctypes.Structure):
    """Struct ``Scan`` of native.c."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("x", "projected", "step_weight", "step_bias", "a", "d", "y")),
        *((name, ctypes.c_int64) for name in ("batch", "height", "width", "channels", "states", "rank", "bfloat16")),
    ]


def scan(x: Tensor, projected: Tensor, step_weight: Tensor, step_bias: Tensor, a: Tensor, d: Tensor) -> Tensor:
    """``selective_scan_2d`` without gradient; ``x`` is float32 or bfloat16.

    Raises:
        RuntimeError: If the library cannot be built here.
    """
    native = library()
    batch, height, width, channels = x.shape
    if padding := -channels % native.lanes():
        x, step_weight = F.pad(x, (0, padding)), F.pad(step_weight, (0, 0, 0, padding))
        step_bias, a, d = F.pad(step_bias, (0, padding)), F.pad(a, (0, 0, 0, padding)), F.pad(d, (0, padding))
    # Channels come last in the weights too, and exp(v) is computed as 2^(v log2 e).
    tensors = [
        x.contiguous(),
        projected.float().contiguous(),
        step_weight.float().mT.contiguous(),
        step_bias.float().contiguous(),
        (a.float() * math.log2(math.e)).mT.contiguous(),
        d.float().sum(0),
        torch.empty(x.shape, dtype=x.dtype),
    ]
    sizes = (batch, height, width, channels + padding, a.shape[2], step_weight.shape[2])
    arguments = _Scan(*(tensor.data_ptr() for tensor in tensors), *sizes, x.dtype == torch.bfloat16)
    following = ctypes.c_int64(0)
    floats = native.scratch_floats(ctypes.byref(arguments))

    def work() -> None:
        _scratch, aligned = _aligned(floats)
        native.scan(ctypes.byref(arguments), ctypes.byref(following), aligned)

    on_all_threads(work, at_most=batch * (channels // native.lanes() + 1))
    return tensors[-1][..., :channels]


def exponentials(repeats: int) -> int:
    """Computes exponentials on all threads, as fast as the machine can, and returns their number."""
    return _repeat(library().exponentials, repeats)


def multiply_adds(repeats: int) -> int:
    """Computes multiply-adds on all threads, as fast as the machine can, and returns their number."""
    return _repeat(library().multiply_adds, repeats)


def _repeat(function: Any, repeats: int) -> int:
    done = []

    def work() -> None:
        values, aligned = _aligned(32 * library().lanes())
        values.fill_(-0.5)
        done.append(function(ctypes.c_int64(repeats), aligned))

    on_all_threads(work, at_most=torch.get_num_threads())
    return sum(done)


def _aligned(floats: int) -> tuple[Tensor, ctypes.c_void_p]:
    """Allocates scratch memory: the tensor that owns it, and the aligned address from which ``floats`` floats fit."""
    memory = torch.empty(floats + _ALIGNMENT // 4)
    return memory, ctypes.c_void_p(-(-memory.data_ptr() // _ALIGNMENT) * _ALIGNMENT)


@functools.cache
def library() -> ctypes.CDLL:
    """Loads native.c as a library, building it if it is not in the cache.

    Raises:
        RuntimeError: If there is no C compiler, or it fails.
    """
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CC", "cc"), "gcc", "clang"))), None)
    if compiler is None:
        raise RuntimeError("no C compiler was found (cc, gcc, clang or $CC)")
    # The predefined macros identify the compiler's version and the processor's instruction sets.
    macros = _run(compiler, "-march=native", "-dM", "-E", "-xc", os.devnull)
    key = hashlib.sha256(macros + _SOURCE.read_bytes() + repr(_FLAGS).encode()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "medical_anomaly_pdd"
    path = cache / f"selective_scan-{key}.so"
    try:
        if not path.is_file():
            with replacing(path) as part:
                _run(compiler, *_FLAGS, "-o", str(part), str(_SOURCE))
        native = ctypes.CDLL(str(path))
    except OSError as error:
        raise RuntimeError(f"{path} cannot be written or loaded: {error}") from error
    for function in (native.scratch_floats, native.exponentials, native.multiply_adds):
        function.restype = ctypes.c_int64
    return native


def _run(*command: str) -> bytes:
    try:
        return subprocess.run(command, check=True, capture_output=True, timeout=300).stdout
    except subprocess.CalledProcessError as error:
        message = error.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise RuntimeError(f"{' '.join(command)} failed: {' '.join(message)}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RuntimeError(f"{command[0]} failed: {error}") from error
