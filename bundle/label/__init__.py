"""Serve the model to 3D Slicer, OHIF and other clients of MONAI Label.

    python -m bundle label MODEL --studies FOLDER                             then http://127.0.0.1:8000 in 3D Slicer
    python -m bundle label MODEL --studies http://127.0.0.1:8042/dicom-web    then http://127.0.0.1:8000/ohif/ in OHIF

Starts MONAI Label on this machine alone over a folder of NIfTI or a DICOMweb server, with models anomaly_segmentation
and anomaly_map, training on normal images, and active learning by the anomaly score. MONAI Label has an environment of
its own, which make label builds. What the server keeps, patients' scans fetched by DICOMweb among it, goes to --app;
MONAI Label itself writes its list of images, and labels, into a folder of NIfTI. The images of a folder are scored at
once; those of a DICOMweb server on request, POST /scoring/anomaly.
"""

import argparse
import importlib.util
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

from scripts.model.folder import ModelFolder

ROOT = Path(__file__).parents[2]
ENVIRONMENT = ROOT / ".venv-label"
NAME = "medical_anomaly_pdd"  # of the link to the model; MONAI Label takes one with "detection" in it for a detector
_LOOPBACK = "127.0.0.1"
_MAIN = '''"""The app that MONAI Label looks for in its app folder."""

from bundle.label.app import AnomalyApp

__all__ = ["AnomalyApp"]
'''


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the verb."""
    parser.add_argument("model", type=Path, metavar="MODEL", help="model folder, which training has written")
    parser.add_argument("--studies", required=True, help="folder of NIfTI (.nii, .nii.gz), or URL of a DICOMweb server")
    parser.add_argument("--port", type=int, default=8000, help="default: %(default)s")
    parser.add_argument("--host", default=_LOOPBACK, help="address that is served (default: %(default)s, this machine)")
    parser.add_argument("--app", type=Path, default=Path("eval/label"), help="working folder (default: %(default)s)")
    parser.add_argument("--modality", choices=("CT", "MR"), help="modality of DICOMweb series (default: the model's)")


def run(args: argparse.Namespace) -> int:
    """Become the server: does not return, except on Windows."""
    python = interpreter()
    model = ModelFolder(args.model.resolve())
    remote = args.studies.startswith(("http://", "https://"))
    studies = args.studies if remote else checked_studies(args.studies)
    require_free(args.host, args.port)
    app = write_app(args.app, model.path)
    if args.host not in (_LOOPBACK, "localhost", "::1"):
        print(f"warning: {args.host} can be reached by others, and the server has no authentication.", file=sys.stderr)
    environment = {**os.environ, **settings(app, python, args.modality or model.modality)}
    if remote:  # else every series would be fetched at once, and again after each training
        environment.setdefault("MONAI_LABEL_AUTO_UPDATE_SCORING", "false")
    command = [str(python), "-m", "monailabel.main", "start_server", "--app", str(app), "--studies", studies]
    command += ["--host", args.host, "--port", str(args.port), "--uvicorn_app", "bundle.label.server:app"]
    os.chdir(app)  # a file .env of where the command was given would be read
    if os.name != "nt":
        os.execve(command[0], command, environment)
    return subprocess.call(command, env=environment)  # Windows' exec leaves a process that nobody waits for


def interpreter() -> Path:
    """Gives the Python that has MONAI Label: this one, or that of ``make label``.

    Raises:
        RuntimeError: if there is none.
    """
    if importlib.util.find_spec("monailabel"):
        return Path(sys.executable)
    python = ENVIRONMENT / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not python.is_file():
        raise RuntimeError(f"MONAI Label is not installed, neither here nor in {ENVIRONMENT}: make label")
    return python


def checked_studies(folder: str) -> str:
    """Gives the absolute path of a folder of scans; MONAI Label would make a missing one.

    Raises:
        NotADirectoryError: if it is none.
        PermissionError: if it cannot be written.
    """
    if not Path(folder).is_dir():
        raise NotADirectoryError(f"{folder}: no such folder. --studies is a folder of NIfTI, or http(s)://...")
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"{folder} cannot be written, where MONAI Label keeps its list of images, and labels.")
    if not any(path.name.endswith((".nii", ".nii.gz")) for path in Path(folder).iterdir()):
        print(f"warning: {folder} has no NIfTI; MONAI Label does not look into folders within it.", file=sys.stderr)
    return str(Path(folder).resolve())


def require_free(host: str, port: int) -> None:
    """Makes sure that a port can be served; MONAI Label would find out after it has begun to score.

    Raises:
        OSError: if it cannot.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as one:
            if os.name != "nt":  # where it would let two servers have one port
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind((address[0], port, *address[2:]))  # getaddrinfo makes another port of one above 65535
    except (OSError, OverflowError) as error:
        raise OSError(f"{host}:{port} cannot be served ({error}). Name another --port or --host.") from None


def write_app(folder: Path, model: Path) -> Path:
    """Makes MONAI Label's app folder, which only its user may read, and gives its absolute path."""
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
    link.symlink_to(model, target_is_directory=True)
    return folder


def settings(app: Path, python: Path, modality: str | None) -> dict[str, str]:
    """Gives the environment variables by which MONAI Label keeps to this app's folder, code and files."""
    search = {"Modality": modality} if modality else {}
    return {
        "PATH": os.pathsep.join([str(python.parent), os.environ.get("PATH", "")]),  # itkimage2segimage of dcmqi
        "PYTHONPATH": str(ROOT),
        "TMPDIR": str(app / "tmp"),  # where scans that are sent lie for a moment, for no other user to read
        "MONAI_LABEL_DATASTORE_FILE_EXT": json.dumps(["*.nii.gz", "*.nii"]),
        "MONAI_LABEL_DICOMWEB_SEARCH_FILTER": json.dumps(search),
        "MONAI_LABEL_DICOMWEB_CACHE_PATH": str(app / "dicom"),
        "MONAI_LABEL_SESSION_PATH": str(app / "sessions"),
    }
