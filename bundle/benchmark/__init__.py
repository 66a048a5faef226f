"""Compares methods on data sets as a suite file says, or measures how fast they are on this machine.

    python -m bundle benchmark --suite docs/results/suites/headct.json --jobs 2
    python -m bundle benchmark --speed --only training inference

--suite trains and evaluates methods x data sets x seeds, and ends with a report. The suite is a JSON file:

  {
    "name": "headct",
    "seeds": [0, 1, 2],
    "values": {"epochs": 30},
    "data": {"HeadCT": {"values": {"datalist": "headct.json", "dataset_dir": "${HEADCT}"}}},
    "methods": {
      "RD4AD": {"configs": ["configs/methods/rd4ad.json"]},
      "memory": {"configs": ["configs/methods/memory.json"]},
      "mean image": {"baseline": "mean_image", "seeds": [0]}
    }
  }

"configs" are overlays of configs/train.json; "values" override single ids. Those of a method override those of its data
set, which override those of the suite. ${NAME} is replaced from the environment. Baselines train nothing. In place of
a datalist, a data set may have "prepare": arguments of `python -m bundle prepare`, which then makes other splits for
each seed, the same for all methods. With "calibrate", arguments of `python -m bundle calibrate`, trained models are
calibrated before they are evaluated. With "select", arguments of `python -m bundle select`, models are also ranked by
synthetic anomalies, and agreement.json tells how far that ranking of methods and poolings is that of the test split.

Each cell (data set, method, seed) is an MLflow run nested in one run of the suite, and a folder below --out. An
interrupted suite continues where it stopped, even in the middle of a training. A failed cell does not stop the others.

--speed measures in turns, for batch sizes 1 and 8 in fp32 and bf16: training (first epoch, and later ones with
cached features), inference, each teacher alone, the selective scan against its floor, reading slices, the time from
starting a process to its first map, and peak memory. It prints the figures, and writes them as JSON with a description
of the machine and versions.
"""

import argparse
import json
import logging
from pathlib import Path

from bundle.benchmark import speed
from bundle.benchmark.agreement import write_agreement
from bundle.benchmark.running import Bench
from bundle.benchmark.suite import cells, load_suite
from bundle.report import make_report

logger = logging.getLogger(__name__)

_OF_SUITE = ("--jobs", "--tracking-uri")
_OF_SPEED = ("--quick", "--only", "--rounds", "--threads", "--device", "--image-size", "--peers")


def configure(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of the verb."""
    either = parser.add_mutually_exclusive_group(required=True)
    either.add_argument("--suite", type=Path, help="suite to run, as above")
    either.add_argument("--speed", action="store_true", help="measure speed and memory, as above")
    parser.add_argument(
        "--out",
        type=Path,
        help="folder for the results of the suite (default: eval/benchmark/NAME), or JSON file for the speed (default: "
        "eval/benchmark/speed.json)",
    )
    with_suite = parser.add_argument_group("with --suite")
    with_suite.add_argument(
        "--jobs", type=int, help="cells to run at a time; more than one get one thread each (default: 1)"
    )
    with_suite.add_argument("--tracking-uri", help="MLflow tracking URI (default: mlruns.db in --out)")
    speed.configure(parser.add_argument_group("with --speed"))


def run(args: argparse.Namespace) -> int:
    """Runs the suite or measures speed; returns 1 if a part of it failed."""
    others, belongs = (_OF_SUITE, "--suite") if args.speed else (_OF_SPEED, "--speed")
    values = {name: getattr(args, name[2:].replace("-", "_")) for name in others}
    if given := [name for name, value in values.items() if value not in (None, False)]:
        raise ValueError(f"{', '.join(given)}: only with {belongs}. Leave out one or the other.")
    return speed.run_speed(args) if args.speed else _run_suite(args)


def _run_suite(args: argparse.Namespace) -> int:
    """Runs the cells that are missing, then writes the report."""
    suite = load_suite(args.suite)
    out = (args.out or Path("eval/benchmark") / suite["name"]).resolve()
    tracking_uri = args.tracking_uri or f"sqlite:///{out}/mlruns.db"
    bench = Bench(suite["name"], out, tracking_uri, args.jobs or 1)
    error = "interrupted"  # unless the end is reached
    try:
        failed = bench.run(cells(suite))
        for name, reason in failed.items():  # before the report, which may fail
            print(f"FAILED {name}: {reason}")
        finished = bench.finished(cells(suite))
        if finished:
            report = make_report(finished, out / "report", f"Suite {suite['name']}")
            bench.attach(report.parent)
            print(f"\n{len(finished)} cells are evaluated. Report: {report}")
            for line in write_agreement(bench.selected(cells(suite)), out / "agreement.json"):
                print(line)
            print(f"MLflow: mlflow ui --backend-store-uri {tracking_uri}")
        error = json.dumps(failed, indent=4) if failed else ""
    finally:
        bench.close(error)
    return 1 if failed else 0
