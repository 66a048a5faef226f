"""A model's network as one file, checked against the original before it is left on the disk."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from bundle.export.formats import FORMATS, Job
from bundle.export.int8 import training_images
from scripts.files import file_sha256
from scripts.model.checkpoints import restore
from scripts.model.folder import MODEL, ModelFolder
from scripts.model.provenance import git_commit, versions
from scripts.networks.exported import ExportedDetector, facts_path
from scripts.networks.weights import weights_hash

TOLERANCE = 1e-3  # of what computes in float32, in standard deviations of the maps
BATCHES = (1, 3)  # the exporters see another size, so a fixed one would show
_RUNTIMES = ("onnx", "onnxscript", "onnxruntime", "openvino", "nncf", "torch_tensorrt")


def export_network(
    folder: ModelFolder, format_name: str, out: Path | None, int8: bool, images: Mapping[str, str]
) -> str:
    """Writes a model's network as a file, and its facts beside it.

    Args:
        folder: Model folder.
        format_name: Key of ``FORMATS``.
        out: File; None takes ``models/model`` of the folder with the format's suffix.
        int8: Whether to quantise.
        images: Config values by id of the images to quantise by.

    Returns:
        Lines that say what was written.

    Raises:
        ValueError: If the suffix is not the format's, the checkpoint is not the configs', or the file deviates too
            far.
        RuntimeError: If a package or device is missing.
    """
    kind = FORMATS[format_name]
    kind.check()
    checkpoint = folder.checkpoint
    out = out or checkpoint.with_name(f"{checkpoint.stem}{'_int8' * int8}{kind.suffix}")
    if out.suffix != kind.suffix:
        raise ValueError(f"--output {out}: a file of --format {format_name} ends in {kind.suffix}.")
    config = folder.config("inference", device="$torch.device('cpu')")
    network: Any = config.get_parsed_content("network_def")
    preprocessing = config.get_parsed_content("preprocessing")
    model_sha256 = weights_hash(restore(checkpoint, {"model": network, "preprocessing": preprocessing})["model"])
    network.eval()
    side = config.get_parsed_content("image_size")
    job = Job(network, [3, side, side], folder, training_images(folder, images) if int8 else None)
    out.parent.mkdir(parents=True, exist_ok=True)
    # Beside the target, so that the finished files need only be renamed.
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".export-") as temporary:
        part = Path(temporary) / out.name
        kind.write(job, part)
        facts: dict[str, Any] = {
            "format": format_name,
            "int8": int8,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "git_commit": git_commit(),
            "checkpoint_sha256": file_sha256(checkpoint),
            "model_sha256": model_sha256,
            "method": folder.metadata[MODEL].get("method"),
            "teachers": network.identities(),
            "untrained_teachers": network.untrained_teachers(),
            "input": preprocessing.settings,
            "image_shape": job.image_shape,
            "versions": versions(_RUNTIMES),
            "files": {path.name: file_sha256(path) for path in sorted(Path(temporary).iterdir())},
            "tolerance": None if int8 else TOLERANCE,
        }
        _write_json(facts_path(part), facts)
        facts["deviation"] = deviation(network, ExportedDetector(part), job.image_shape)
        if not int8 and not facts["deviation"] <= TOLERANCE:
            raise ValueError(
                f"The exported network deviates by {facts['deviation']:.2g} standard deviations of the maps, more than "
                f"{TOLERANCE:g}: {out} was not written. Take another --format, and please report this one."
            )
        _write_json(facts_path(part), facts)
        for path in sorted(Path(temporary).iterdir(), key=lambda path: path == facts_path(part)):  # the facts last
            path.replace(out.with_name(path.name))
    limit = "judge it by its evaluation" if int8 else f"tolerance {TOLERANCE:g}"
    size = sum(out.with_name(name).stat().st_size for name in facts["files"])
    return (
        f"Largest deviation from PyTorch: {facts['deviation']:.2g} standard deviations of the maps ({limit}).\n"
        f"Written: {', '.join(str(out.with_name(name)) for name in facts['files'])} ({size / 1e6:.1f} MB), and "
        f"{facts_path(out).name}"
    )


def deviation(network: torch.nn.Module, exported: torch.nn.Module, image_shape: list[int], seed: int = 0) -> float:
    """Largest deviation of the exported network's maps, in standard deviations of the network's.

    Args:
        network: Network in evaluation mode.
        exported: What was exported of it.
        image_shape: Shape (3, H, W) of an image.
        seed: Seed of the random images.
    """
    generator = torch.Generator().manual_seed(seed)
    differences, maps = [], []
    for size in BATCHES:
        images = torch.rand(size, *image_shape, generator=generator)
        with torch.no_grad():
            maps.append(network(images))
        differences.append((exported(images) - maps[-1]).abs().max())
    return float(torch.stack(differences).max() / torch.cat(maps).std())


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
