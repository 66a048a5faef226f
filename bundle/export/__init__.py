"""Export a trained model: as a bundle of its own, or as one file (TorchScript, ONNX, OpenVINO, TensorRT).

--format bundle writes a folder or a .zip in the form of MONAI's model zoo: configs with the overlays of the training
merged in, checkpoint, calibration where there is one, the teachers' weights and all code. In it plain commands run, as
`python -m monai.bundle run inferring --config_file configs/inference.json`; the verbs label, deploy and listen and
MONAI's own tools take it:

    python -m bundle export --format bundle --config_file configs/train.json configs/data/ct.json

The other formats write a file that runs without this bundle's code.

The file takes images (B, 3, H, W) in [0, 1], float32, prepared as the configs say, B at will, and gives the anomaly
maps (B, 1, H, W), float32. Name the configs of the training. Before anything is left on the disk, the written file maps
random images in batches of 1 and 3: its largest deviation from the network in PyTorch, in standard deviations of that
network's maps, is printed and must not exceed 0.001. FILE.json, beside FILE, says what was exported, and belongs to it
as OpenVINO's FILE.bin does. Evaluation, calibration and inference run FILE in place of the network by
configs/exported.json, the last of --config_file:

    python -m bundle export --format onnx --output models/model.onnx
    python -m monai.bundle run evaluating --exported_path models/model.onnx \\
        --config_file "['configs/train.json','configs/evaluate.json','configs/exported.json']"

OpenVINO computes in bfloat16 with --network_def#precision bf16. --int8 (of openvino) computes convolutions in 8 bits,
by the ranges that normal images of the training split give; the map and a selective scan stay in float32. The maps of
both deviate by more: accept them by their evaluation, and calibrate anew.
"""

import argparse
import json
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser

from bundle.configured import add_options, given, parsed
from bundle.export.formats import FORMATS, Job
from bundle.export.int8 import training_images
from bundle.export.package import write_bundle
from scripts.files import file_sha256
from scripts.model.checkpoints import load_checkpoint, restored
from scripts.model.predictor import NAME
from scripts.model.provenance import git_commit, versions
from scripts.networks.exported import ExportedDetector, facts_path
from scripts.networks.weights import weights_hash

TOLERANCE = 1e-3  # of what computes in float32, in standard deviations of the maps
BATCHES = (1, 3)  # the exporters see another size, so a fixed one would show
_RUNTIMES = ("onnx", "onnxscript", "onnxruntime", "openvino", "nncf", "torch_tensorrt")


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the verb."""
    parser.add_argument("--format", choices=["bundle", *FORMATS], required=True, help="tensorrt needs a GPU")
    parser.add_argument("--int8", action="store_true", help="quantise, by images of the training split; openvino alone")
    add_options(parser, ["configs/train.json"], "the training")
    parser.add_argument("--ckpt_path", type=Path, help="the checkpoint (default: as the configs say)")
    suffixes = ", ".join(f"{kind.suffix} ({name})" for name, kind in FORMATS.items())
    parser.add_argument(
        "--output",
        type=Path,
        help=f"{suffixes} (default: the checkpoint's name with that suffix); of bundle a new folder or .zip (default: "
        f"{NAME} beside the checkpoint)",
    )
    parser.add_argument("--calibration_path", type=Path, help="of bundle (default: as evaluations take it)")
    parser.add_argument("--image_size", type=int, help="H and W, as in training (default: as the configs say)")
    parser.add_argument("--datalist", type=Path, help="of --int8 (default: as the configs say)")
    parser.add_argument("--dataset_dir", type=Path, help="of --int8: where the images are")


def run(args: argparse.Namespace) -> int:
    """Write what is asked for, and print how far a file deviates.

    Raises:
        ValueError: If options do not go together, or the file deviates too far.
        RuntimeError: If a package or device is missing.
    """
    if args.calibration_path and args.format != "bundle":
        raise ValueError("--calibration_path is of --format bundle: the other formats hold the network alone.")
    return _export_bundle(args) if args.format == "bundle" else _export_file(args)


def _export_bundle(args: argparse.Namespace) -> int:
    config, checkpoint = _trained(args)
    restored(config, checkpoint)  # refuses configs that are not those of the training
    beside = checkpoint.with_name("calibration.json")
    calibration = args.calibration_path or (beside if beside.is_file() else None)
    overrides = {name: config[name] for name, _ in args.set} | given(args, "image_size")
    root = str(config.get_parsed_content("bundle_root"))
    out = write_bundle(
        args.config_file[1:], overrides, checkpoint, calibration, args.output or checkpoint.with_name(NAME), root
    )
    if calibration is None:
        print(
            f"There is no calibration {beside}, so there will be no masks and no p-values: python -m bundle calibrate."
        )
    files = [out] if out.is_file() else [file for file in out.rglob("*") if file.is_file()]
    print(f"Written: {out} ({sum(file.stat().st_size for file in files) / 1e6:.1f} MB)")
    return 0


def _export_file(args: argparse.Namespace) -> int:
    kind = FORMATS[args.format]
    if args.int8 and args.format != "openvino":
        raise ValueError(f"--int8 is offered for --format openvino, not {args.format}.")
    kind.check()
    config, checkpoint = _trained(args)
    out: Path = args.output or checkpoint.with_name(f"{checkpoint.stem}{'_int8' * args.int8}{kind.suffix}")
    if out.suffix != kind.suffix:
        raise ValueError(f"--output {out}: a file of --format {args.format} ends in {kind.suffix}.")
    network, training = restored(config, checkpoint)
    side = config.get_parsed_content("image_size")
    overrides = {name: config[name] for name, _ in args.set} | given(args, "image_size")
    images = training_images(config) if args.int8 else None
    job = Job(network, checkpoint, args.config_file, overrides, [3, side, side], images)
    out.parent.mkdir(parents=True, exist_ok=True)
    # Beside the target, so that the finished files need only be renamed.
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".export-") as folder:
        part = Path(folder) / out.name
        kind.write(job, part)
        facts = {
            "format": args.format,
            "int8": args.int8,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "git_commit": git_commit(),
            "checkpoint_sha256": file_sha256(checkpoint),
            "model_sha256": weights_hash(load_checkpoint(checkpoint)["model"]),
            "method": training.get("method"),
            "teachers": network.identities(),
            "untrained_teachers": network.untrained_teachers(),
            "input": config.get_parsed_content("input_settings").settings,
            "image_shape": job.image_shape,
            "versions": versions(_RUNTIMES),
            "files": {path.name: file_sha256(path) for path in sorted(Path(folder).iterdir())},
            "tolerance": None if args.int8 else TOLERANCE,
        }
        _write_json(facts_path(part), facts)
        facts["deviation"] = deviation(network, ExportedDetector(part), job.image_shape)
        if not args.int8 and not facts["deviation"] <= TOLERANCE:
            raise ValueError(
                f"The exported network deviates by {facts['deviation']:.2g} standard deviations of the maps, more than "
                f"{TOLERANCE:g}: {out} was not written. Take another --format, and please report this one."
            )
        _write_json(facts_path(part), facts)
        for path in sorted(Path(folder).iterdir(), key=lambda path: path == facts_path(part)):  # the facts last
            path.replace(out.with_name(path.name))
    limit = "judge it by its evaluation" if args.int8 else f"tolerance {TOLERANCE:g}"
    print(f"Largest deviation from PyTorch: {facts['deviation']:.2g} standard deviations of the maps ({limit}).")
    size = sum(out.with_name(name).stat().st_size for name in facts["files"])
    print(
        f"Written: {', '.join(str(out.with_name(name)) for name in facts['files'])} ({size / 1e6:.1f} MB), and "
        f"{facts_path(out).name}"
    )
    return 0


def _trained(args: argparse.Namespace) -> tuple[ConfigParser, Path]:
    """The configs with all options merged in, and the checkpoint that they name."""
    values = given(args, "ckpt_path", "image_size", "datalist", "dataset_dir") | {"device": "$torch.device('cpu')"}
    config = parsed(args.config_file, values, args.set)
    return config, Path(config.get_parsed_content("ckpt_path"))


def deviation(network: torch.nn.Module, exported: torch.nn.Module, image_shape: list[int], seed: int = 0) -> float:
    """Gives the largest deviation of the exported network's maps, in standard deviations of the network's.

    Args:
        image_shape: (3, H, W).
        seed: of the random images.
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
