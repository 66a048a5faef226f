"""Where the runs of a report are: folders, or MLflow's store, to which the report goes back."""

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

from .reading import OPTIONAL, SCORES, SUMMARY

logger = logging.getLogger(__name__)

ARTIFACTS = "report"  # the report's folder in an MLflow run
_RUN_ID = re.compile("[0-9a-f]{32}")


class Source(NamedTuple):
    """A run of which the files are here.

    Attributes:
        folder: with the files of the evaluation.
        name: what to call it; None for a folder.
        run_id: of the MLflow run it came from; None for a folder.
    """

    folder: Path
    name: str | None = None
    run_id: str | None = None


def find(run: str, tracking_uri: str | None, downloads: Path) -> Source:
    """Finds a run, and fetches its files if they are in MLflow.

    Args:
        run: a folder, or the id or name of an MLflow run.
        tracking_uri: of MLflow's store.
        downloads: an empty folder for files of MLflow runs.

    Raises:
        FileNotFoundError: If it is neither, or the MLflow run holds no evaluation.
        ValueError: If several MLflow runs have this name.
    """
    if Path(run).is_dir():
        return Source(Path(run))
    if tracking_uri is None:
        raise FileNotFoundError(
            f"{run}: no such folder. To take it for the id or name of an MLflow run, give --tracking_uri."
        )
    found = _mlflow_run(run, MlflowClient(tracking_uri), tracking_uri)
    run_id, name = found.info.run_id, str(found.info.run_name)
    there = {entry.path for entry in MlflowClient(tracking_uri).list_artifacts(run_id)}
    if not {SUMMARY, SCORES} <= there:
        kind = found.data.tags.get("kind", "unknown kind")
        raise FileNotFoundError(
            f"MLflow run {name!r} ({run_id}, {kind}): no evaluation, its artifacts lack {SUMMARY} or {SCORES}. "
            "Name a run of `python -m monai.bundle run evaluating`."
        )
    folder = downloads / run_id
    folder.mkdir(parents=True, exist_ok=True)
    for file in {SUMMARY, SCORES, *OPTIONAL} & there:
        download_artifacts(run_id=run_id, artifact_path=file, dst_path=str(folder), tracking_uri=tracking_uri)
    return Source(folder, f"{name} ({run_id[:8]})", run_id)


def attach(report: Path, sources: Sequence[Source], tracking_uri: str) -> list[str]:
    """Logs a report to the MLflow runs that it is about: those that were named, and the trainings of folders.

    Returns:
        The ids of these runs.
    """
    client = MlflowClient(tracking_uri)
    attached = []
    for run_id in dict.fromkeys(source.run_id or _trained_by(source.folder) for source in sources):
        if run_id is None:
            continue
        try:
            client.get_run(run_id)
        except mlflow.MlflowException:
            logger.warning("MLflow run %s is not in %s, so the report is not attached to it.", run_id, tracking_uri)
            continue
        for file in sorted(report.glob("report.*")):
            client.log_artifact(run_id, str(file), ARTIFACTS)
        attached.append(run_id)
    return attached


def _trained_by(folder: Path) -> str | None:
    return json.loads((folder / SUMMARY).read_text(encoding="utf-8")).get("model", {}).get("mlflow_run_id")


def _mlflow_run(run: str, client: MlflowClient, tracking_uri: str) -> Run:
    if _RUN_ID.fullmatch(run):
        try:
            return client.get_run(run)
        except mlflow.MlflowException as error:
            raise FileNotFoundError(
                f"{run}: neither a folder nor the id of a run in {tracking_uri} ({error.message})."
            ) from error
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    quoted = run.replace("'", "''")
    try:
        found = list(client.search_runs(experiments, f"tags.kind = 'evaluation' and attributes.run_name = '{quoted}'"))
    except mlflow.MlflowException as error:
        raise FileNotFoundError(
            f"{run}: no such folder, and no name to look for in MLflow ({error.message})."
        ) from error
    if not found:
        raise FileNotFoundError(
            f"{run}: neither a folder nor the id or name of an evaluation's run in {tracking_uri}. "
            "Runs are listed in MLflow; those of evaluations have the tag kind = evaluation."
        )
    if len(found) > 1:
        ids = ", ".join(one.info.run_id for one in found)
        raise ValueError(f"{run}: {len(found)} evaluations in {tracking_uri} have this name; give one's id: {ids}.")
    return found[0]
