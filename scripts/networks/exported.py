"""Exported detectors (``python -m bundle export``), with the interface of the network that they were exported from."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from scripts.extras import EXPORT, TENSORRT, import_extra
from scripts.files import file_sha256
from scripts.networks.weights import weights_hash

Run = Callable[[Tensor], Tensor]  # (B, 3, H, W) float32 -> (B, 1, H, W), on the same device

PRECISIONS = ("f32", "bf16")


class ExportedDetector(nn.Module):
    """Runs an exported file with the interface of a ``Detector`` in evaluation mode; it cannot be trained.

    ONNX Runtime (``.onnx``) and OpenVINO (``.xml``) always compute on the CPU, TorchScript (``.ts``) on the device of
    the images, and TensorRT (``.ts``) on the GPU.

    Args:
        path: Path of the exported file. Its companions (``path.json``, OpenVINO's ``.bin``) must lie beside it.
        threads: Number of threads for ONNX Runtime or OpenVINO; None leaves the choice to them. TorchScript uses
            torch's setting.
        precision: ``"f32"`` or ``"bf16"``, the precision in which OpenVINO computes; None means ``"f32"``.

    Attributes:
        facts: Contents of ``path.json``.
        runtime: Format of the file, as ``"onnx"``.
        precision: float32, bfloat16 or int8.
        sha256: Hash of the file.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If the files do not belong together, or an option or the suffix is not supported.
        RuntimeError: If the runtime is not installed.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "model.ts")
    ...     torch.jit.trace(nn.Conv2d(3, 1, 1), torch.rand(1, 3, 8, 8)).save(path)
    ...     facts = {"format": "torchscript", "image_shape": [3, 8, 8], "files": {path.name: file_sha256(path)}}
    ...     _ = facts_path(path).write_text(json.dumps(facts))
    ...     ExportedDetector(path)(torch.rand(2, 3, 8, 8)).shape
    torch.Size([2, 1, 8, 8])
    """

    def __init__(self, path: str | Path, threads: int | None = None, precision: str | None = None) -> None:
        super().__init__()
        self.path = Path(path)
        if self.path.suffix not in RUNNERS:
            raise ValueError(
                f"{path}: the name of an exported network ends in {', '.join(RUNNERS)}. Export one with "
                "`python -m bundle export`."
            )
        if precision is not None and (self.path.suffix != ".xml" or precision not in PRECISIONS):
            raise ValueError(
                f"precision must be {' or '.join(PRECISIONS)}, and only OpenVINO (.xml) has it, got {precision}."
            )
        if threads is not None and self.path.suffix == ".ts":
            raise ValueError("threads works with .onnx and .xml only; for TorchScript set OMP_NUM_THREADS.")
        self.facts = read_facts(self.path)
        self.runtime = str(self.facts["format"])
        self.precision = "int8" if self.facts.get("int8") else {"bf16": "bfloat16"}.get(str(precision), "float32")
        self.sha256 = file_sha256(self.path)
        load = _tensorrt if self.facts["format"] == "tensorrt" else RUNNERS[self.path.suffix]
        self.run: Run = load(self.path, threads, precision or PRECISIONS[0])
        self.eval()

    def forward(self, image: Tensor) -> Tensor:
        """Computes anomaly maps: (B, 3, H, W) in [0, 1] -> (B, 1, H, W) float32.

        Raises:
            RuntimeError: If the network is in training mode.
            ValueError: If the images differ in size from those of the export.
        """
        if self.training:
            raise RuntimeError(f"{self.path} is exported and cannot be trained.")
        expected, given = self.facts["image_shape"], list(image.shape[1:])
        if given != expected:
            raise ValueError(
                f"{self.path} was exported for images of shape {expected}, got {given}. Export it for this shape."
            )
        with torch.autocast(image.device.type, enabled=False):  # the precision was fixed by the export
            return self.run(image.float())

    def identities(self) -> list[dict[str, str]]:
        """Name, origin and hash of each teacher; see ``Teacher.identity``."""
        return self.facts["teachers"]

    def untrained_teachers(self) -> list[str]:
        """Names of the teachers with random weights."""
        return self.facts["untrained_teachers"]

    def load_state_dict(self, state_dict: Mapping[str, Any], *_: Any, **__: Any) -> Any:
        """Checks that ``state_dict`` is what was exported; loads nothing, as the file holds its own weights.

        Raises:
            RuntimeError: If the file was exported from other weights.
        """
        if weights_hash(state_dict) != self.facts["model_sha256"]:
            raise RuntimeError(
                f"{self.path} was exported from another checkpoint (sha256 {self.facts['checkpoint_sha256'][:12]}): "
                "export this one with `python -m bundle export MODEL`."
            )
        return nn.modules.module._IncompatibleKeys([], [])


def facts_path(path: Path) -> Path:
    """Path of the JSON file with the facts of an exported file."""
    return path.with_name(f"{path.name}.json")


def read_facts(path: Path) -> dict[str, Any]:
    """Reads the facts of an exported file and checks that its files are still those of the export.

    Raises:
        FileNotFoundError: If a file of the export is missing.
        ValueError: If a file belongs to another export.
    """
    for file in (path, facts_path(path)):
        if not file.is_file():
            raise FileNotFoundError(
                f"There is no {file}. Export a checkpoint with `python -m bundle export --output {path}`."
            )
    facts = json.loads(facts_path(path).read_text(encoding="utf-8"))
    for name, sha256 in facts["files"].items():
        file = path.with_name(name)
        if not file.is_file() or file_sha256(file) != sha256:
            raise ValueError(f"{file} does not belong to {facts_path(path)}: export both again.")
    return facts


def _torchscript(path: Path, threads: int | None, precision: str) -> Run:
    network = torch.jit.load(path, map_location="cpu").eval()

    @torch.no_grad()
    def run(image: Tensor) -> Tensor:
        return network.to(image.device)(image)

    return run


def _tensorrt(path: Path, threads: int | None, precision: str) -> Run:
    import_extra("torch_tensorrt", TENSORRT)  # registers the engines that the file holds
    network = torch.jit.load(path).eval()

    @torch.no_grad()
    def run(image: Tensor) -> Tensor:
        return network(image.cuda()).to(image.device)

    return run


def _onnxruntime(path: Path, threads: int | None, precision: str) -> Run:
    onnxruntime = import_extra("onnxruntime", EXPORT)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    (name,) = (value.name for value in session.get_inputs())

    def run(image: Tensor) -> Tensor:
        (pred,) = session.run(None, {name: image.cpu().contiguous().numpy()})
        return torch.from_numpy(pred).to(image.device)

    return run


def _openvino(path: Path, threads: int | None, precision: str) -> Run:
    core = import_extra("openvino", EXPORT).Core()
    settings = {"INFERENCE_PRECISION_HINT": precision} | ({"INFERENCE_NUM_THREADS": threads} if threads else {})
    network = core.compile_model(str(path), "CPU", settings)

    def run(image: Tensor) -> Tensor:
        pred = network([image.cpu().contiguous().numpy()])[0]
        return torch.from_numpy(pred.copy()).to(image.device)  # the next call overwrites the buffer

    return run


RUNNERS: dict[str, Callable[[Path, int | None, str], Run]] = {
    ".ts": _torchscript,
    ".onnx": _onnxruntime,
    ".xml": _openvino,
}
