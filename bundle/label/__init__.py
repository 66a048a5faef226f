"""Serves a model to 3D Slicer, OHIF and other clients of MONAI Label.

    python -m bundle label MODEL --studies FOLDER                             then http://127.0.0.1:8000 in 3D Slicer
    python -m bundle label MODEL --studies http://127.0.0.1:8042/dicom-web    then http://127.0.0.1:8000/ohif/ in OHIF

Starts MONAI Label, for this machine alone, over a folder of NIfTI or a DICOMweb server. It offers masks and anomaly
maps, active learning by the anomaly score, and training on normal images, which replaces the model in MODEL.

MONAI Label has an environment of its own, which make label builds. What the server keeps, such as scans fetched from a
DICOMweb server, goes to --app; MONAI Label itself writes its list of images, and labels, into a folder of NIfTI. Images
of a folder are scored at the start, those of a DICOMweb server on request: POST /scoring/anomaly.
"""

import argparse
import importlib.util
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

from scripts.data.scans import SCAN_SUFFIXES
from scripts.model.folder import ModelFolder

ROOT = Path(__file__).parents[2]
ENVIRONMENT = ROOT / ".venv-label"
NAME = "medical_anomaly_pdd"  # of the link to any model: with "detection" in it, MONAI Label expects a detector
_LOOPBACK = "127.0.0.1"
_MODALITIES = ("CT", "MR")
_MAIN = '''"""The app that MONAI Label looks for in its app folder."""

from bundle.label.app import AnomalyApp

__all__ = ["AnomalyApp"]
'''


def configure(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of the verb."""
    parser.add_argument("model", type=Path, metavar="MODEL", help="model folder, which training has written")
    parser.add_argument("--studies", required=True, help="folder of NIfTI (.nii, .nii.gz), or URL of a DICOMweb server")
    parser.add_argument("--port", type=int, default=8000, help="port to serve (default: %(default)s)")
    parser.add_argument("--host", default=_LOOPBACK, help="address to serve (default: %(default)s, this machine)")
    parser.add_argument("--app", type=Path, default=Path("eval/label"), help="working folder (default: %(default)s)")
    parser.add_argument("--modality", choices=_MODALITIES, help="modality of DICOMweb series (default: the model's)")


def run(args: argparse.Namespace) -> int:
    """Becomes the server: does not return, except on Windows."""
    python = interpreter()
    model = ModelFolder(args.model)
    remote = args.studies.startswith(("http://", "https://"))
    studies = args.studies if remote else checked_studies(args.studies)
    modality = searched_modality(model, args.modality) if remote else None
    require_free(args.host, args.port)
    app = write_app(args.app, model.path)
    if args.host not in (_LOOPBACK, "localhost", "::1"):
        print(f"warning: others can reach {args.host}, and the server has no authentication.", file=sys.stderr)
    environment = {**os.environ, **settings(app, python, modality)}
    if remote:  # or else every series would be fetched at the start, and again after each training
        environment.setdefault("MONAI_LABEL_AUTO_UPDATE_SCORING", "false")
    command = [str(python), "-m", "monailabel.main", "start_server", "--app", str(app), "--studies", studies]
    command += ["--host", args.host, "--port", str(args.port), "--uvicorn_app", "bundle.label.server:app"]
    os.chdir(app)  # or else MONAI Label would read a file .env of the current folder
    if os.name != "nt":
        os.execve(command[0], command, environment)
    return subprocess.call(command, env=environment)  # on Windows, exec leaves a process that nobody waits for


def interpreter() -> Path:
    """Python that has MONAI Label: this one, or that of ``make label``.

    Raises:
        RuntimeError: If neither has it.
    """
    if importlib.util.find_spec("monailabel"):
        return Path(sys.executable)
    python = ENVIRONMENT / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not python.is_file():
        raise RuntimeError(f"MONAI Label is installed neither here nor in {ENVIRONMENT}. Install it there: make label")
    return python


def checked_studies(folder: str) -> str:
    """Absolute path of a folder of scans; MONAI Label would make a missing one.

    Raises:
        NotADirectoryError: If there is no such folder.
        PermissionError: If it cannot be written.
    """
    if not Path(folder).is_dir():
        raise NotADirectoryError(f"There is no folder {folder}. --studies takes a folder of NIfTI, or http(s)://...")
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"{folder} cannot be written, but MONAI Label keeps its list of images and labels there.")
    if not any(path.name.endswith(SCAN_SUFFIXES) for path in Path(folder).iterdir()):
        print(f"warning: {folder} has no NIfTI; MONAI Label does not look into its subfolders.", file=sys.stderr)
    return str(Path(folder).resolve())


def searched_modality(model: ModelFolder, asked: str | None) -> str:
    """Modality of the series that a DICOMweb server is searched for: CT or MR.

    Args:
        model: Model folder.
        asked: Modality that the user asked for; None takes the model's.

    Raises:
        ValueError: If the model's is neither.
    """
    found = (asked or model.modality or "unknown").upper()
    if found not in _MODALITIES:
        raise ValueError(f"The modality of the model is {found}: name that of the series by --modality CT or MR.")
    return found


def require_free(host: str, port: int) -> None:
    """Checks that a port can be served; MONAI Label would find out only after it has begun to score.

    Raises:
        OSError: If it cannot be served.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as one:
            if os.name != "nt":  # on Windows, this would let two servers share a port
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind((address[0], port, *address[2:]))  # getaddrinfo wraps a port above 65535
    except (OSError, OverflowError) as error:
        raise OSError(f"{host}:{port} cannot be served ({error}). Name another --port or --host.") from None


def write_app(folder: Path, model: Path) -> Path:
    """Makes MONAI Label's app folder, which only its user may read, and returns its absolute path.

    Raises:
        FileExistsError: If something else lies where the link to the model folder belongs.
    """
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    (folder / "tmp").mkdir(exist_ok=True)
    (folder / "main.py").write_text(_MAIN, encoding="utf-8")
    link = folder / "model" / NAME
    link.parent.mkdir(exist_ok=True)
    if link.is_symlink():
        link.unlink()
    elif link.exists():
        raise FileExistsError(f"{link} is not a link to a model folder: remove it, or name another --app.")
    link.symlink_to(model.resolve(), target_is_directory=True)
    return folder


def settings(app: Path, python: Path, modality: str | None) -> dict[str, str]:
    """Environment variables that keep MONAI Label to this app's folder, code and files.

    Args:
        app: App folder, see `write_app`.
        python: Python that has MONAI Label, see `interpreter`.
        modality: Modality of the series that a DICOMweb server is searched for; None searches for all.
    """
    search = {"Modality": modality} if modality else {}
    return {
        "PATH": os.pathsep.join([str(python.parent), os.environ.get("PATH", "")]),  # itkimage2segimage of dcmqi
        "PYTHONPATH": str(ROOT),
        "TMPDIR": str(app / "tmp"),  # of uploaded scans, which no other user may read
        "MONAI_LABEL_DATASTORE_FILE_EXT": json.dumps(["*.nii.gz", "*.nii"]),
        "MONAI_LABEL_DICOMWEB_SEARCH_FILTER": json.dumps(search),
        "MONAI_LABEL_DICOMWEB_CACHE_PATH": str(app / "dicom"),
        "MONAI_LABEL_SESSION_PATH": str(app / "sessions"),
    }
