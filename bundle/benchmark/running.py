"""Runs the cells of a suite, each in processes of its own."""

import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from mlflow.entities import RunStatus
from mlflow.tracking import MlflowClient
from tqdm import tqdm

from bundle.benchmark.agreement import SELECTED, TESTED
from bundle.benchmark.suite import Cell
from scripts.files import replacing
from scripts.model.folder import RESUME
from scripts.tracking.run import experiment_id

logger = logging.getLogger(__name__)

_ROOT = Path(__file__).parents[2]
_DONE = "finished.json"  # of a cell: written once its evaluation is whole
_PARENT = "suite_run.json"


class Bench:
    """Runs cells that have no result yet.

    Args:
        name: Name of the suite, and of its MLflow experiment and run.
        out: folder of the suite; each cell has one below it.
        tracking_uri: MLflow's store.
        jobs: cells at a time; more than one get one thread each.
    """

    def __init__(self, name: str, out: Path, tracking_uri: str, jobs: int = 1) -> None:
        self.name, self.out, self.tracking_uri, self.jobs = name, out, tracking_uri, jobs
        out.mkdir(parents=True, exist_ok=True)
        self.client = MlflowClient(tracking_uri)
        self.run_id = self._suite_run()

    def run(self, cells: Sequence[Cell]) -> dict[str, str]:
        """Runs the cells, and gives those that failed with the reason.

        Raises:
            ValueError: If a cell has results of other settings.
        """
        missing = [cell for cell in cells if not self._is_finished(cell)]
        logger.info("%d of %d cells are finished already", len(cells) - len(missing), len(cells))
        failed: dict[str, str] = {}
        self._prepare(missing)
        with ThreadPoolExecutor(self.jobs) as pool, tqdm(total=len(missing), unit="cell", smoothing=0) as bar:
            running = {pool.submit(self._run, cell): cell for cell in missing}
            try:
                for future in as_completed(running):
                    cell, error = running[future], future.exception()
                    bar.update()
                    bar.write(f"{cell.name}: {f'{future.result():.0f} s' if error is None else 'FAILED'}")
                    if error is not None:
                        failed[cell.name] = str(error)
            except KeyboardInterrupt:
                pool.shutdown(cancel_futures=True)
                raise
        return failed

    def _prepare(self, cells: Sequence[Cell]) -> None:
        """Prepares the datalists that are missing: one for each data set and seed, for all methods alike.

        Raises:
            RuntimeError: If a data set cannot be prepared.
        """
        wanted = {cell.datalist: cell for cell in cells if cell.prepare is not None}
        for name, cell in wanted.items():
            path = self.out / name
            if not path.is_file():
                path.parent.mkdir(parents=True, exist_ok=True)
                words = [*(cell.prepare or []), "--seed", str(cell.seed), "--out", str(path), "--force"]
                self._process(path.parent, ["bundle", "prepare", *words])

    def finished(self, cells: Sequence[Cell]) -> list[Path]:
        """The folders of evaluations that are whole."""
        return [self.out / cell.folder / "test" for cell in cells if self._is_finished(cell)]

    def selected(self, cells: Sequence[Cell]) -> list[tuple[Cell, Path]]:
        """The cells that are whole and were also ranked by synthetic anomalies, with their folders."""
        ranked = [cell for cell in cells if cell.select is not None and cell.baseline is None]
        return [(cell, self.out / cell.folder) for cell in ranked if self._is_finished(cell)]

    def attach(self, folder: Path) -> None:
        """Logs the report with the suite's run."""
        self.client.log_artifacts(self.run_id, str(folder), "report")

    def close(self, error: str = "") -> None:
        """Ends the suite's run."""
        status = RunStatus.to_string(RunStatus.FAILED if error else RunStatus.FINISHED)
        self.client.set_terminated(self.run_id, status)

    def _suite_run(self) -> str:
        """The MLflow run of the suite, the same one when it goes on."""
        path = self.out / _PARENT
        if path.is_file():
            known = json.loads(path.read_text())
            if known["tracking_uri"] == self.tracking_uri:
                self.client.update_run(known["run_id"], status=RunStatus.to_string(RunStatus.RUNNING))
                return str(known["run_id"])
        experiment = experiment_id(self.client, self.tracking_uri, self.name)
        tags = {"kind": "suite", "mlflow.source.name": "python -m bundle benchmark"}
        run_id = self.client.create_run(experiment, run_name=f"suite {self.name}", tags=tags).info.run_id
        path.write_text(json.dumps({"tracking_uri": self.tracking_uri, "run_id": run_id}))
        return str(run_id)

    def _asked(self, cell: Cell) -> dict[str, Any]:
        asked = {"configs": cell.configs, "baseline": cell.baseline, "values": cell.values, "seed": cell.seed}
        more = {"prepare": cell.prepare, "calibrate": cell.calibrate, "select": cell.select}
        return asked | {name: value for name, value in more.items() if value is not None}

    def _is_finished(self, cell: Cell) -> bool:
        path = self.out / cell.folder / _DONE
        if not path.is_file():
            return False
        if json.loads(path.read_text())["asked"] != self._asked(cell):
            raise ValueError(
                f"{path.parent} holds a result of other settings than the suite now asks for: remove that folder, or "
                "name another --out."
            )
        return True

    def _run(self, cell: Cell) -> float:
        """Trains and evaluates one cell, and returns the seconds.

        Raises:
            RuntimeError: If one of its processes failed; ends with its last lines.
        """
        folder = self.out / cell.folder
        folder.mkdir(parents=True, exist_ok=True)
        model = folder / "model"
        prepared = {} if cell.prepare is None else {"datalist": str(self.out / cell.datalist)}
        overlay = {
            **prepared,
            **cell.values,
            "seed": cell.seed,
            "run_name": f"{cell.method} {cell.data} seed {cell.seed}",
            "model_dir": str(model),
            "model_folder#provenance#method": cell.method,
            "tracking_uri": self.tracking_uri,
            "experiment_name": self.name,
            "tracking#parent_run_id": self.run_id,
            "tracking#registered_model": "",
        }
        (folder / "cell.json").write_text(json.dumps(overlay, indent=4) + "\n")
        configs = ["configs/train.json", *cell.configs, str(folder / "cell.json")]
        started = time.time()
        if cell.baseline is not None:
            words = ["bundle", "baseline", cell.baseline, "--config-file", *configs]
            self._process(folder, [*words, "--results-dir", str(folder / "test")])
        else:
            resume = ["--resume", "True"] if (model / RESUME).is_file() else []
            self._process(folder, ["monai.bundle", "run", "training", "--config_file", str(configs), *resume])
            if cell.calibrate is not None:
                self._process(folder, ["bundle", "calibrate", str(model), *cell.calibrate])
            parent = ["--set", "tracking#parent_run_id", self.run_id]
            self._process(folder, ["bundle", "evaluate", str(model), "-o", str(folder / "test"), *parent])
            if cell.select is not None:
                ranking, tested = str(folder / SELECTED), str(folder / TESTED)
                self._process(folder, ["bundle", "select", str(model), "--out", ranking, *cell.select])
                words = ["bundle.benchmark.poolings", str(model), "--ranking", ranking, "--out", tested]
                self._process(folder, words)
        seconds = time.time() - started
        with replacing(folder / _DONE) as part:
            part.write_text(json.dumps({"asked": self._asked(cell), "seconds": round(seconds, 1)}, indent=4) + "\n")
        return seconds

    def _process(self, folder: Path, words: list[str]) -> None:
        log = folder / "log.txt"
        environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
        if self.jobs > 1:
            environment["OMP_NUM_THREADS"] = "1"
        with log.open("a", encoding="utf-8") as file:
            done = subprocess.run(
                [sys.executable, "-m", *words], cwd=_ROOT, env=environment, stdout=file, stderr=file, check=False
            )
        if done.returncode:
            tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-4:])
            raise RuntimeError(f"exit code {done.returncode}, see {log}:\n{tail}")
