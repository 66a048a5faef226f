"""Arguments of the verbs that take a model folder, and the config values that they stand for."""

import argparse
from pathlib import Path
from typing import Any

from scripts.data.datalist import datalist_hash
from scripts.model.command import value_of
from scripts.model.folder import MODEL, ModelFolder

_NAMES = ("datalist", "dataset_dir", "cache_dir", "output_dir", "calibration_path", "num_workers")


def add_model(parser: argparse.ArgumentParser, *, datalist: bool = False) -> None:
    """Declares the model folder and what may be chosen of it.

    Args:
        parser: Parser of the verb.
        datalist: Whether the verb reads a datalist.
    """
    parser.add_argument("model", type=Path, metavar="MODEL", help="model folder, which training has written")
    add_choices(parser, datalist=datalist)
    parser.add_argument("--calibration-path", type=Path, metavar="FILE", help="default: MODEL/models/calibration.json")
    parser.add_argument("--exported", type=Path, metavar="FILE", help="run this export in place of the network")
    parser.add_argument("--num-workers", type=int, metavar="N", help="processes that read ahead (default: as trained)")


def add_choices(parser: argparse.ArgumentParser, *, datalist: bool) -> None:
    """Declares what may be chosen of one model folder or of several; parameters as in ``add_model``."""
    if datalist:
        parser.add_argument("--datalist", type=Path, metavar="FILE", help="another datalist than the training's")
        parser.add_argument("--dataset-dir", type=Path, metavar="DIR", help="where its images are")
    parser.add_argument("--cache-dir", type=Path, metavar="DIR", help="copies of scans (default: MODEL/cache)")
    parser.add_argument("--amp", action="store_true", help="compute in bfloat16")
    parser.add_argument("--device", metavar="NAME", help="cpu, cuda, cuda:1, … (default: a GPU where there is one)")
    parser.add_argument(
        "--set", nargs=2, action="append", default=[], metavar=("ID", "VALUE"), help="any other value of the config"
    )


def given(args: argparse.Namespace, folder: ModelFolder) -> dict[str, Any]:
    """Config values by id that the arguments ask for.

    Raises:
        ValueError: If the remembered datalist is needed and has changed since the training.
        FileNotFoundError: If it is gone.
    """
    values = {name: getattr(args, name, None) for name in _NAMES}
    values = {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}
    values = {name: value for name, value in values.items() if value is not None}
    if hasattr(args, "datalist") and args.datalist is None:
        _check_datalist(folder)
    if exported := getattr(args, "exported", None):
        values |= folder.exported(exported)
    if args.amp:
        values["amp"] = True
    if args.device:
        values["device"] = f"$torch.device('{args.device}')"
    return values | {name: value_of(text) for name, text in args.set}


def _check_datalist(folder: ModelFolder) -> None:
    path = Path(str(folder.config("evaluate").get_parsed_content("datalist")))
    if not path.is_file():
        raise FileNotFoundError(f"The datalist {path} of the training is not there: name it by --datalist.")
    if datalist_hash(path) != folder.metadata[MODEL].get("datalist_sha256"):
        raise ValueError(
            f"{path} has changed since the training, so its test patients may have been trained on. If that is as it "
            f"should be, name it: --datalist {path}"
        )
