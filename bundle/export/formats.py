"""The formats of an exported network: what each needs, and how it is written."""

import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from monai.bundle import ckpt_export, trt_export
from torch import Tensor, nn

from bundle.export.int8 import quantised
from scripts.extras import EXPORT, TENSORRT, import_extra
from scripts.model.folder import ModelFolder

_EXAMPLES = 2  # torch.export takes a size of 1 for a constant
_FOLDED = 2**20  # elements
_TENSORRT_BATCHES = [1, 8, 32]  # the fewest, the usual, the most


@dataclass(frozen=True)
class Job:
    """A network to be exported.

    Attributes:
        network: Restored network in evaluation mode.
        image_shape: Shape (3, H, W) of an image.
        folder: Model folder that it comes from, which TorchScript and TensorRT need.
        images: Images (3, H, W) in [0, 1] to take the ranges of INT8 from; None for float32.
    """

    network: nn.Module
    image_shape: list[int]
    folder: ModelFolder | None = None
    images: list[Tensor] | None = None


class Format(NamedTuple):
    """A format of exported networks.

    Attributes:
        suffix: Suffix of the file.
        check: raises RuntimeError if a package or device is missing.
        write: writes a job's file.
    """

    suffix: str
    check: Callable[[], None]
    write: Callable[[Job, Path], None]


def _write_torchscript(job: Job, path: Path) -> None:
    with _quiet():
        ckpt_export(**_monais_arguments(job, path), use_trace=True)


def _write_tensorrt(job: Job, path: Path) -> None:
    with _quiet():
        arguments = _monais_arguments(job, path)
        trt_export(**arguments, use_trace=True, precision="fp32", dynamic_batchsize=_TENSORRT_BATCHES)


def _monais_arguments(job: Job, path: Path) -> dict[str, Any]:
    """Arguments of MONAI's exports, which keep the config of inference in their files, where MONAI Deploy looks."""
    assert job.folder is not None
    configs = job.folder.path / "configs"
    return {
        "net_id": "network_def",
        "filepath": str(path),
        "ckpt_file": str(job.folder.checkpoint),
        "meta_file": str(configs / "metadata.json"),
        "config_file": str(configs / "inference.json"),
        "key_in_ckpt": "model",
        "input_shape": [1, *job.image_shape],
        "bundle_root": str(job.folder.path),
    }


def _write_onnx(job: Job, path: Path) -> None:
    optimizer = import_extra("onnxscript.optimizer", EXPORT)
    with torch.no_grad(), _quiet():
        program = torch.onnx.export(
            job.network,
            (torch.rand(_EXAMPLES, *job.image_shape),),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            input_names=["image"],
            output_names=["pred"],
            verbose=False,
        )
    assert program is not None
    # What follows from weights alone is computed now: OpenVINO's Scan takes nothing computed from outside its body.
    optimizer.optimize(program.model, input_size_limit=_FOLDED, output_size_limit=_FOLDED)
    for node in program.model.graph.all_nodes():
        # The module's name tells INT8 what to leave alone; torch's own notes name folders of this machine.
        scopes = node.metadata_props.get("pkg.torch.onnx.name_scopes")
        node.name = f"{_module(scopes)}/{node.name}"
        node.metadata_props.clear()
    program.save(path)


def _module(scopes: str | None) -> str:
    """The dotted name of the innermost module: ``"['', 'teachers.0', 'sub']"`` -> ``"teachers.0"``."""
    names = scopes.strip("[]").split(", ") if scopes else []
    return names[-2].strip("'") if len(names) > 1 else ""


def _write_openvino(job: Job, path: Path) -> None:
    openvino = import_extra("openvino", EXPORT)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        _write_onnx(job, Path(folder) / "network.onnx")
        core = openvino.Core()
        model = core.read_model(f"{folder}/network.onnx")
        if job.images is not None:
            # As read from ONNX, a Scan's body shares constants with the graph around it, which nncf cannot follow.
            openvino.save_model(model, f"{folder}/network.xml", compress_to_fp16=False)
            model = quantised(core.read_model(f"{folder}/network.xml"), job.images)
        # Weights of float16 would be another deviation from PyTorch, for half the size of the file.
        openvino.save_model(model, str(path), compress_to_fp16=False)


@contextmanager
def _quiet() -> Iterator[None]:
    """Hides what is known: exported networks keep their image size, and TorchScript is deprecated."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _needs(*modules: str) -> Callable[[], None]:
    def check() -> None:
        for module in modules:
            import_extra(module, EXPORT)

    return check


def _needs_gpu() -> None:
    if not torch.cuda.is_available():
        raise RuntimeError("TensorRT needs an NVIDIA GPU, and torch sees none: export there, or as onnx or openvino.")
    import_extra("torch_tensorrt", TENSORRT)


FORMATS = {
    "torchscript": Format(".ts", lambda: None, _write_torchscript),
    "onnx": Format(".onnx", _needs("onnx", "onnxscript", "onnxruntime"), _write_onnx),
    "openvino": Format(".xml", _needs("onnx", "onnxscript", "openvino"), _write_openvino),
    "tensorrt": Format(".ts", _needs_gpu, _write_tensorrt),
}
