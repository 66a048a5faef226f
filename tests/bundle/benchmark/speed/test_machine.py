"""Description of the machine."""

import os

import torch

from bundle.benchmark.speed.machine import machine, processor, versions

XEON = """processor\t: 0
vendor_id\t: GenuineIntel
model name\t: Intel(R) Xeon(R) Platinum 8488C
flags\t\t: fpu sse2 avx2 fma avx512f amx_bf16 avx512_bf16 amx_tile

processor\t: 1
model name\t: another
flags\t\t: fpu
"""
GRAVITON = "processor\t: 0\nBogoMIPS\t: 2100.00\nFeatures\t: fp asimd sve bf16 i8mm\n"


def test_a_processor_is_told_by_its_model_and_the_flags_that_matter() -> None:
    flags = ["avx2", "fma", "avx512f", "avx512_bf16", "amx_tile", "amx_bf16"]
    assert processor(XEON) == ("Intel(R) Xeon(R) Platinum 8488C", flags)
    assert processor(GRAVITON) == ("", ["asimd", "sve", "bf16"])
    assert processor("") == ("", [])


def test_this_machine_has_memory_cores_and_no_gpu_where_none_is_used() -> None:
    found = machine(torch.device("cpu"))
    assert 1 <= found["cores"] <= (os.cpu_count() or 1)
    assert found["memory_gib"] > 0.5
    assert found["gpu"] is None


def test_versions_are_those_of_the_packages() -> None:
    assert versions()["torch"] == torch.__version__.split("+")[0]
