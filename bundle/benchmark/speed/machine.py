"""Describes the machine and the versions behind the figures."""

import os
import platform
from pathlib import Path
from typing import Any

import torch

from scripts.model.provenance import git_commit, installed

PACKAGES = ("torch", "torchvision", "timm", "monai", "numpy", "numba", "onnxruntime", "openvino", "mamba-ssm")
# Processor features that decide how fast networks run.
_FLAGS = ("avx2", "fma", "avx512f", "avx512_bf16", "avx512_vnni", "amx_tile", "amx_bf16", "asimd", "sve", "bf16")
_CPUINFO = Path("/proc/cpuinfo")


def machine(device: torch.device) -> dict[str, Any]:
    """Processor, memory, system and, if used, the GPU, as JSON values."""
    model, flags = processor(_CPUINFO.read_text() if _CPUINFO.is_file() else "")
    found: dict[str, Any] = {
        "cpu": model or platform.processor() or platform.machine(),
        "cores": usable_cores(),
        "flags": flags,
        "torch_uses": torch.backends.cpu.get_cpu_capability(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": platform.platform(),
        "load_average": [round(load, 2) for load in os.getloadavg()],  # reveals other work on the machine
        "gpu": None,
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found["gpu"] = {
            "name": properties.name,
            "memory_gib": round(properties.total_memory / 2**30, 1),
            "compute_capability": f"{properties.major}.{properties.minor}",
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }
    return found


def processor(cpuinfo: str) -> tuple[str, list[str]]:
    """Model of the processor, empty if unknown, and its flags that matter, from the text of /proc/cpuinfo."""
    fields = dict(
        _field(line) for line in reversed(cpuinfo.splitlines()) if ":" in line
    )  # reversed, so that the first core's fields remain
    flags = set(fields.get("flags", fields.get("Features", "")).split())
    return fields.get("model name", ""), [flag for flag in _FLAGS if flag in flags]


def usable_cores() -> int:
    """Number of cores that this process may use, which may be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def versions() -> dict[str, str]:
    """Versions of Python and of the installed packages, and the commit of this code."""
    return {"python": platform.python_version(), "commit": git_commit()} | installed(PACKAGES)


def _field(line: str) -> tuple[str, str]:
    name, _, value = line.partition(":")
    return name.strip(), value.strip()
