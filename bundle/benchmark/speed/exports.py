"""Measures methods exported by ``python -m bundle export``, in ONNX Runtime and OpenVINO."""

import functools
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from bundle.benchmark.speed.measuring import Call, Case, timed
from bundle.benchmark.speed.methods import METHODS, PRECISIONS, made_up_images
from bundle.benchmark.speed.settings import BATCHES, Settings, named
from bundle.export.formats import FORMATS, Job
from scripts.networks.exported import RUNNERS

RUNTIMES = {"ONNX Runtime": "onnx", "OpenVINO": "openvino"}
_FP32_ONLY = "onnx"  # ONNX Runtime has no bfloat16 on CPUs
_PRECISIONS = {"fp32": "f32", "bf16": "bf16"}  # names used by exported networks


def exports(settings: Settings) -> list[Case]:
    """Cases from images to anomaly maps by exported files; on CPUs only."""
    if settings.device.type != "cpu":
        return []
    return [
        Case(
            named(f"{method}, {runtime}", batch_size, precision),
            "images",
            batch_size,
            partial(_exported, write, batch_size, precision, settings),
        )
        for method in (["RD4AD"] if settings.quick else METHODS)  # exporting a selective scan is slow
        for runtime, kind in RUNTIMES.items()
        for write in [functools.cache(partial(_write, method, kind, settings))]
        for precision in PRECISIONS
        if not (precision == "bf16" and kind == _FP32_ONLY)
        for batch_size in (
            BATCHES if method == "RD4AD" else BATCHES[:1]
        )  # an exported scan holds all its steps in memory
    ]


def _write(method: str, kind: str, settings: Settings) -> Path:
    """Exports the file that all cases of a method and runtime share."""
    network, side = settings.method(method).network.eval(), settings.image_size
    path = settings.folder / f"{method}{FORMATS[kind].suffix}"
    FORMATS[kind].check()
    FORMATS[kind].write(Job(network, [3, side, side]), path)
    return path


def _exported(write: Callable[[], Path], batch_size: int, precision: str, settings: Settings) -> Call:
    path = write()
    run = RUNNERS[path.suffix](path, settings.threads, _PRECISIONS[precision])
    images = torch.stack([image.as_tensor() for image in made_up_images(batch_size, settings.image_size)])
    return timed(partial(run, images), settings.device)
