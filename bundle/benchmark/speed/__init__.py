"""Measures how fast the bundle is on this machine: all that a user waits for, taking turns in one run."""

import argparse
import json
import shlex
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from bundle.benchmark.speed import memory, networks, peers
from bundle.benchmark.speed.comparisons import HOW, compare
from bundle.benchmark.speed.exports import exports
from bundle.benchmark.speed.machine import machine, usable_cores, versions
from bundle.benchmark.speed.measuring import Case, take
from bundle.benchmark.speed.scan import floor, scan
from bundle.benchmark.speed.settings import Settings
from bundle.benchmark.speed.slices import slices
from bundle.benchmark.speed.start import start
from bundle.benchmark.speed.table import table
from scripts.files import replacing

_TIMED: dict[str, Callable[[Settings], list[Case]]] = {
    "training": networks.training,
    "inference": networks.inference,
    "exports": exports,
    "teachers": networks.teachers,
    "scan": scan,
    "slices": slices,
    "start": start,
}
GROUPS = (*_TIMED, "memory")
_PEERS = {"training": peers.training, "inference": peers.inference, "exports": peers.exports}
_OUT = Path("eval/benchmark/speed.json")
_WEIGHTS = "UNTRAINED networks, as speed does not depend on the weights"


def configure(parser: argparse._ArgumentGroup) -> None:
    """Declares the options of ``--speed``; one that is not given is None or False."""
    parser.add_argument("--quick", action="store_true", help="use small networks and one round, to see whether it runs")
    parser.add_argument("--only", nargs="+", choices=GROUPS, help="groups to measure (default: all)")
    parser.add_argument("--rounds", type=int, help="rounds that count, after one to warm up (default: 5)")
    parser.add_argument("--threads", type=int, help="threads of every process (default: the cores that it may use)")
    parser.add_argument("--device", help="cpu or cuda (default: cuda if there is a GPU)")
    parser.add_argument("--image-size", type=int, help="side of the square images in pixels (default: 256)")
    parser.add_argument(
        "--peers", type=Path, metavar="PYTHON", help="also measure anomalib, installed for this Python interpreter"
    )


def run_speed(args: argparse.Namespace) -> int:
    """Measures, writes the JSON and prints the table; returns 1 if something could not be measured."""
    out: Path = args.out or _OUT
    if out.is_dir():
        raise IsADirectoryError(f"{out}: is a folder. Give --out the name of a JSON file.")
    threads = usable_cores() if args.threads is None else args.threads
    rounds = (1 if args.quick else 5) if args.rounds is None else args.rounds
    if min(threads, rounds) < 1:
        raise ValueError(f"--threads and --rounds must be at least 1, got {threads} and {rounds}.")
    device = torch.device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: torch finds no GPU. Leave out --device, or install torch for CUDA.")
    size = args.image_size or (64 if args.quick else 256)
    torch.set_num_threads(threads)

    def keep(result: dict[str, Any]) -> None:
        with replacing(out) as part:
            part.write_text(json.dumps(result, indent=2) + "\n")

    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(device, size, threads, rounds, args.quick, Path(folder))
        result = measure(settings, args.only or GROUPS, args.peers, keep)
    print(f"\n{table(result)}\n\nWritten: {out}")
    return 1 if result["failed"] else 0


def measure(
    settings: Settings,
    groups: Sequence[str],
    peer_python: Path | None = None,
    keep: Callable[[dict[str, Any]], None] = lambda result: None,
) -> dict[str, Any]:
    """Measures all groups.

    Args:
        settings: Settings that all measurements share.
        groups: Names out of ``GROUPS``.
        peer_python: Python interpreter with anomalib; None measures the bundle alone.
        keep: Function that saves the result so far, before the first group and after each: all take an hour.

    Returns:
        All figures, with a description of machine, versions and method, as JSON values.
    """
    result: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["python", "-m", "bundle", *sys.argv[1:]]),
        "machine": machine(settings.device),
        "versions": versions(),
        "threads": settings.threads,
        "device": str(settings.device),
        "image_size": settings.image_size,
        "quick": settings.quick,
        "weights": _WEIGHTS,
        "method": {
            "rounds": settings.rounds,
            "warm_up_rounds": 1,
            "order": "within a group each case once in a round, never two at a time",
            "training": "the bundle's engine on made-up images in memory, without its handlers; bf16 is autocast",
            "memory": "each case in a process of its own",
            "start": "from starting a process to its end, with files in the system's cache",
            "comparisons": HOW,
        },
        "peers": None,
        "groups": {},
        "floor": None,
        "comparisons": [],
        "failed": {},
    }
    with ExitStack() as stack:
        peer = None
        if peer_python is not None:
            peer = stack.enter_context(peers.Peer(peer_python, settings))
            result["peers"] = {"anomalib": peer.ask("versions")}
        cases = {name: _cases(name, settings, peer) for name in _TIMED if name in groups}
        jobs = memory.jobs(settings) if "memory" in groups else []
        calls = (settings.rounds + 1) * sum(map(len, cases.values())) + len(jobs)
        bar = stack.enter_context(tqdm(total=calls, unit="call", smoothing=0))
        keep(result)
        for name in (group for group in GROUPS if group in groups):
            bar.set_description(name)
            figures, failed = (
                memory.measure(jobs, bar) if name == "memory" else take(cases.pop(name), settings.rounds, bar)
            )
            result["groups"][name] = figures
            result["failed"] |= {f"{name}, {case}": reason for case, reason in failed.items()}
            result["floor"] = floor(result["groups"].get("scan", []), settings.device)
            if not settings.quick:
                result["comparisons"] = compare(result["groups"], result["floor"])
            keep(result)
    return result


def _cases(name: str, settings: Settings, peer: peers.Peer | None) -> list[Case]:
    ours = _TIMED[name](settings)
    theirs = _PEERS[name](peer) if peer is not None and name in _PEERS else []
    return [*ours, *theirs]
