"""Trains and evaluates methods x data sets x seeds as one file says, and ends in a report.

A suite is a JSON file:

  {
    "name": "headct",
    "seeds": [0, 1, 2],
    "values": {"epochs": 30},
    "data": {"HeadCT": {"values": {"datalist": "headct.json", "dataset_dir": "${HEADCT}"}}},
    "methods": {
      "RD4AD": {"configs": ["configs/methods/rd4ad.json"]},
      "nearest neighbours": {"baseline": "nearest_neighbours"},
      "mean image": {"baseline": "mean_image", "seeds": [0]}
    }
  }

"configs" are overlays of configs/train.json, "values" override single ids; those of the method come after those of the
data set, and these after those of the suite. ${NAME} is taken from the environment. Baselines train nothing.

Each cell (data set, method, seed) is an MLflow run below one run of the suite, and a folder below --out. A suite that
was broken off goes on where it stopped, inside a training too; a cell that failed does not stop the others.
"""

import argparse
import json
import logging
from pathlib import Path

from bundle.benchmark.running import Bench
from bundle.benchmark.suite import cells, load_suite
from bundle.report import make_report

logger = logging.getLogger(__name__)


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the verb."""
    parser.add_argument("--suite", type=Path, required=True, help="JSON file, as above")
    parser.add_argument("--out", type=Path, help="folder of all results (default: eval/benchmark/NAME)")
    parser.add_argument("--jobs", type=int, default=1, help="cells at a time, one thread each (default: %(default)s)")
    parser.add_argument("--tracking_uri", help="of MLflow (default: mlruns.db in --out)")


def run(args: argparse.Namespace) -> int:
    """Run what is missing, then write the report; exit code 1 if a cell failed."""
    suite = load_suite(args.suite)
    out = (args.out or Path("eval/benchmark") / suite["name"]).resolve()
    tracking_uri = args.tracking_uri or f"sqlite:///{out}/mlruns.db"
    bench = Bench(suite["name"], out, tracking_uri, args.jobs)
    error = "broken off"  # unless all below is reached
    try:
        failed = bench.run(cells(suite))
        for name, reason in failed.items():  # first, lest a report that cannot be made hides them
            print(f"FAILED {name}: {reason}")
        finished = bench.finished(cells(suite))
        if finished:
            report = make_report(finished, out / "report", f"Suite {suite['name']}")
            bench.attach(report.parent)
            print(f"\n{len(finished)} cells are evaluated. Report: {report}")
            print(f"MLflow: mlflow ui --backend-store-uri {tracking_uri}")
        error = json.dumps(failed, indent=4) if failed else ""
    finally:
        bench.close(error)
    return 1 if failed else 0
