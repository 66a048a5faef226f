"""A detector that was exported by ``python -m bundle export``, in the place of the network that it was made of."""

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
    """Runs an exported file with the interface that a ``Detector`` has in evaluation mode. It cannot be trained.

    ONNX Runtime (``.onnx``) and OpenVINO (``.xml``) compute on the CPU wherever the images are, TorchScript (``.ts``)
    where they are, TensorRT (``.ts``) on the GPU.

    Args:
        path: of the file; what was exported with it (``path.json``, OpenVINO's ``.bin``) lies beside it.
        threads: of ONNX Runtime or OpenVINO; None leaves it to them. TorchScript uses torch's own.
        precision: ``"f32"`` or ``"bf16"``, in which OpenVINO computes; None takes ``"f32"``.

    Attributes:
        facts: what ``path.json`` holds.
        runtime: format of the file, as ``"onnx"``.
        precision: float32, bfloat16 or int8.
        sha256: hash of the file.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if files do not belong together, or an option or suffix is not offered.
        RuntimeError: if the runtime is not installed.
    """

    def __init__(self, path: str | Path, threads: int | None = None, precision: str | None = None) -> None:
        super().__init__()
        self.path = Path(path)
        if self.path.suffix not in RUNNERS:
            raise ValueError(f"{path}: an exported network ends in {', '.join(RUNNERS)}: python -m bundle export.")
        if precision is not None and (self.path.suffix != ".xml" or precision not in PRECISIONS):
            raise ValueError(f"precision is {' or '.join(PRECISIONS)}, and of OpenVINO (.xml) alone, not {precision}.")
        if threads is not None and self.path.suffix == ".ts":
            raise ValueError("threads are those of .onnx and .xml; TorchScript has torch's: set OMP_NUM_THREADS.")
        self.facts = read_facts(self.path)
        self.runtime = str(self.facts["format"])
        self.precision = "int8" if self.facts["int8"] else {"bf16": "bfloat16"}.get(str(precision), "float32")
        self.sha256 = file_sha256(self.path)
        load = _tensorrt if self.facts["format"] == "tensorrt" else RUNNERS[self.path.suffix]
        self.run: Run = load(self.path, threads, precision or PRECISIONS[0])
        self.eval()

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> (B, 1, H, W) float32 anomaly map.

        Raises:
            RuntimeError: in training mode.
            ValueError: if H and W are not those of the export.
        """
        if self.training:
            raise RuntimeError(f"{self.path} is exported and cannot be trained.")
        expected, given = self.facts["image_shape"], list(image.shape[1:])
        if given != expected:
            raise ValueError(f"{self.path} was exported for images {expected}, these are {given}: export it for them.")
        with torch.autocast(image.device.type, enabled=False):  # the file has the precision that it has
            return self.run(image.float())

    def identities(self) -> list[dict[str, str]]:
        """What the teachers are, see ``Teacher.identity``."""
        return self.facts["teachers"]

    def untrained_teachers(self) -> list[str]:
        """The names of the teachers with random weights."""
        return self.facts["untrained_teachers"]

    def load_state_dict(self, state_dict: Mapping[str, Any], *_: Any, **__: Any) -> Any:
        """Loads nothing: the file holds its weights. Makes sure that they are those of ``state_dict``.

        Raises:
            RuntimeError: if it is not the one that was exported.
        """
        if weights_hash(state_dict) != self.facts["model_sha256"]:
            raise RuntimeError(
                f"{self.path} was exported from another checkpoint (sha256 {self.facts['checkpoint_sha256'][:12]}): "
                "export this one: python -m bundle export MODEL."
            )
        return nn.modules.module._IncompatibleKeys([], [])


def facts_path(path: Path) -> Path:
    """Where the facts of an exported file are."""
    return path.with_name(f"{path.name}.json")


def read_facts(path: Path) -> dict[str, Any]:
    """What was written about an exported file, after a look whether it is still that file.

    Raises:
        FileNotFoundError: if one of its files is missing.
        ValueError: if one of its files is of another export.
    """
    for file in (path, facts_path(path)):
        if not file.is_file():
            raise FileNotFoundError(f"There is no {file}. Export a checkpoint: python -m bundle export --output {path}")
    facts = json.loads(facts_path(path).read_text(encoding="utf-8"))
    for name, sha256 in facts["files"].items():
        file = path.with_name(name)
        if not file.is_file() or file_sha256(file) != sha256:
            raise ValueError(f"{file} is not the one that {facts_path(path)} was written with: export both anew.")
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
        return torch.from_numpy(pred.copy()).to(image.device)  # the next call would write over it

    return run


RUNNERS: dict[str, Callable[[Path, int | None, str], Run]] = {
    ".ts": _torchscript,
    ".onnx": _onnxruntime,
    ".xml": _openvino,
}
