"""Sources of a report's runs: folders, or an MLflow store, to which the report is attached."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import mlflow
from mlflow.artifacts import download_artifacts
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from .reading import EVALUATE, OPTIONAL, SCORES, SUMMARY

logger = logging.getLogger(__name__)

ARTIFACTS = "report"  # folder of the report in an MLflow run
IN_MODEL = Path("eval", "test")  # folder of the evaluation in a model folder
_RUN_ID = re.compile("[0-9a-f]{32}")


class Source(NamedTuple):
    """One run whose files are in a folder.

    Attributes:
        folder: Folder with the files of the evaluation.
        name: Name of the run; None for a folder of results.
        run_id: Id of the MLflow run that the files come from; None for a folder.
    """

    folder: Path
    name: str | None = None
    run_id: str | None = None


def find(run: str, tracking_uri: str | None, downloads: Path) -> Source:
    """Finds a run, and downloads its files if they are in MLflow.

    Args:
        run: Model folder, folder of results, or id or name of an MLflow run.
        tracking_uri: URI of the MLflow store.
        downloads: Empty folder for the files of MLflow runs.

    Raises:
        FileNotFoundError: If there is no such run, or the MLflow run holds no evaluation.
        ValueError: If several MLflow runs have this name.
    """
    if Path(run).is_dir():
        return of_folder(Path(run))
    if tracking_uri is None:
        raise FileNotFoundError(
            f"{run}: no such folder. {EVALUATE} makes an evaluation; for an MLflow run, add --tracking-uri."
        )
    found = _mlflow_run(run, MlflowClient(tracking_uri), tracking_uri)
    run_id, name = found.info.run_id, str(found.info.run_name)
    there = {entry.path for entry in MlflowClient(tracking_uri).list_artifacts(run_id)}
    if not {SUMMARY, SCORES} <= there:
        kind = found.data.tags.get("kind", "unknown kind")
        raise FileNotFoundError(
            f"MLflow run {name!r} ({run_id}, {kind}): not an evaluation, since it lacks {SUMMARY} or {SCORES}. "
            f"Name a run of {EVALUATE}."
        )
    folder = downloads / run_id
    folder.mkdir(parents=True, exist_ok=True)
    for file in {SUMMARY, SCORES, *OPTIONAL} & there:
        download_artifacts(run_id=run_id, artifact_path=file, dst_path=str(folder), tracking_uri=tracking_uri)
    return Source(folder, f"{name} ({run_id[:8]})", run_id)


def of_folder(folder: Path) -> Source:
    """Returns the source of a folder of results, or of a model folder, whose evaluation is in ``eval/test``."""
    if not (folder / SUMMARY).is_file() and (folder / IN_MODEL / SUMMARY).is_file():
        return Source(folder / IN_MODEL, folder.resolve().name)
    return Source(folder)


def attach(report: Path, sources: Sequence[Source], tracking_uri: str) -> list[str]:
    """Logs a report to its MLflow runs: those that were named, and the training runs of folders.

    Returns:
        Ids of these runs.
    """
    client = MlflowClient(tracking_uri)
    attached = []
    for run_id in dict.fromkeys(source.run_id or _trained_by(source.folder) for source in sources):
        if run_id is None:
            continue
        try:
            client.get_run(run_id)
        except mlflow.MlflowException:
            logger.warning("The report is not attached to the MLflow run %s, which is not in %s.", run_id, tracking_uri)
            continue
        for file in sorted(report.glob("report.*")):
            client.log_artifact(run_id, str(file), ARTIFACTS)
        attached.append(run_id)
    return attached


def _trained_by(folder: Path) -> str | None:
    return json.loads((folder / SUMMARY).read_text(encoding="utf-8")).get("model", {}).get("mlflow_run_id")


def _mlflow_run(run: str, client: MlflowClient, tracking_uri: str) -> Run:
    unknown = f"{run}: neither a folder nor the id or name of an evaluation in {tracking_uri}"
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    quoted = run.replace("'", "''")
    try:
        if _RUN_ID.fullmatch(run):
            return client.get_run(run)
        found = list(client.search_runs(experiments, f"tags.kind = 'evaluation' and attributes.run_name = '{quoted}'"))
    except mlflow.MlflowException as error:
        raise FileNotFoundError(f"{unknown} ({error.message}). {EVALUATE} makes one.") from error
    if not found:
        raise FileNotFoundError(f"{unknown}, where their tag kind is evaluation. {EVALUATE} makes one.")
    if len(found) > 1:
        ids = ", ".join(one.info.run_id for one in found)
        raise ValueError(f"{run}: {len(found)} evaluations in {tracking_uri} have this name. Name one by id: {ids}.")
    return found[0]
