"""Exports a model: its folder as a zip, or its network as one file (TorchScript, ONNX, OpenVINO, TensorRT).

    python -m bundle export models/brain --format zip
    python -m bundle export models/brain --format onnx
    python -m bundle evaluate models/brain --exported models/brain/models/model.onnx

A zip holds the model folder without results, caches and what only resuming needs, in the form of MONAI's model zoo:
unpacked anywhere, every verb takes it, and plain commands run in it.

The other formats write a file that runs without this bundle's code. It takes images (B, 3, H, W) in [0, 1], float32,
prepared as the configs say, B at will, and returns the anomaly maps (B, 1, H, W), float32. Before anything is left on
the disk, the written file maps random images in batches of 1 and 3: its largest deviation from the network in PyTorch,
in standard deviations of that network's maps, is printed and must not exceed 0.001. FILE.json, beside FILE, says what
was exported, and belongs to it as OpenVINO's FILE.bin does. calibrate, evaluate and infer run FILE by --exported; a
calibration counts for one file alone.

--int8 (of openvino) computes convolutions in 8 bits, by the ranges that normal images of the training split give; the
map and a selective scan stay in float32. Its maps deviate by more: accept them by their evaluation.

A checkpoint of version 0.5.0 becomes a model folder with the configs that it was trained by:

    python -m bundle export models/model.pt --config-file configs/train.json configs/data/ct.json --output models/brain
"""

import argparse
from pathlib import Path

from bundle.export.conversion import convert
from bundle.export.formats import FORMATS
from bundle.export.network import export_network
from bundle.export.zipped import write_zip
from scripts.model.folder import ModelFolder

ZIP = "zip"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of the verb."""
    parser.add_argument("model", type=Path, metavar="MODEL", help="model folder; or a checkpoint of version 0.5.0")
    parser.add_argument("--format", choices=[ZIP, *FORMATS], help="default: zip; tensorrt needs a GPU")
    suffixes = ", ".join(f"{kind.suffix} ({name})" for name, kind in FORMATS.items())
    text = f"{suffixes} (default: MODEL/models/model with that suffix), MODEL.zip"
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help=text)
    parser.add_argument("--int8", action="store_true", help="quantise, by images of the training split; openvino alone")
    parser.add_argument("--datalist", type=Path, metavar="FILE", help="of --int8: another datalist than the training's")
    parser.add_argument("--dataset-dir", type=Path, metavar="DIR", help="of --int8: where its images are")
    parser.add_argument("--cache-dir", type=Path, metavar="DIR", help="of --int8: copies of scans")
    parser.add_argument("--config-file", nargs="+", metavar="FILE", help="of a 0.5.0 checkpoint: its configs")
    parser.add_argument(
        "--set", nargs=2, action="append", default=[], metavar=("ID", "VALUE"), help="of --config-file: override"
    )


def run(args: argparse.Namespace) -> int:
    """Writes what is asked for, and prints how far a file deviates.

    Raises:
        ValueError: If options do not go together, or the file deviates too far.
        RuntimeError: If a package or device is missing.
    """
    names = ("datalist", "dataset_dir", "cache_dir")
    images = {name: str(getattr(args, name)) for name in names if getattr(args, name) is not None}
    if images and not args.int8:
        raise ValueError("--datalist, --dataset-dir and --cache-dir are of --int8.")
    if args.config_file:
        if args.output is None or args.format or args.int8:
            raise ValueError("--config-file makes a model folder: give --output FOLDER, no --format and no --int8.")
        print(f"Written: {convert(args.model, args.config_file, args.set, args.output)}")
        return 0
    if args.set:
        raise ValueError("--set is of --config-file: a model folder has its configs.")
    folder = ModelFolder(args.model)
    chosen = args.format or ZIP
    if args.int8 and chosen != "openvino":
        raise ValueError(f"--int8 is offered for --format openvino, not {chosen}.")
    if chosen == ZIP:
        out = write_zip(folder, args.output or Path(f"{folder.path.resolve()}.zip"))
        print(f"Written: {out} ({out.stat().st_size / 1e6:.1f} MB)")
        return 0
    print(export_network(folder, chosen, args.output, args.int8, images))
    return 0
