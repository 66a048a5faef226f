"""Measures the peak memory of a training or an inference, each in a process of its own.

Run as a module with a ``Job`` as JSON, this is that process, and prints the bytes.
"""

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

from bundle.benchmark.speed.methods import PRECISIONS, ROOT, Method
from bundle.benchmark.speed.settings import BATCHES, Settings, environment, images_a_call, named

_STATUS = Path("/proc/self/status")
_INFERENCES = 3


class Job(NamedTuple):
    """Job of the process.

    Attributes:
        method: Name of a method, see ``Method``.
        what: ``training``, for one first epoch, or ``inference``.
        batch_size: Images in a batch.
        amp: Whether to use bfloat16 autocast.
        device: Name of a ``torch.device``.
        image_size: Side of the images in pixels.
        threads: Threads of the process.
        quick: Whether to use small networks.
    """

    method: str
    what: str
    batch_size: int
    amp: bool
    device: str
    image_size: int
    threads: int
    quick: bool

    @property
    def name(self) -> str:
        """Name of the figure."""
        (precision,) = (name for name, amp in PRECISIONS.items() if amp == self.amp)
        return named(f"{self.method} {self.what}", self.batch_size, precision)


def jobs(settings: Settings) -> list[Job]:
    """All processes to measure."""
    return [
        Job(
            method,
            what,
            batch_size,
            amp,
            str(settings.device),
            settings.image_size,
            settings.threads,
            settings.quick,
        )
        for method in settings.in_processes
        for what in (("training",) if settings.quick else ("training", "inference"))
        for batch_size in (BATCHES[-1:] if settings.quick else BATCHES)
        for amp in ((False,) if settings.quick else PRECISIONS.values())
    ]


def measure(jobs: Sequence[Job], bar: tqdm) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Runs the jobs; returns ``{"name", "bytes", "of"}`` of each that succeeded, and errors of the others by name."""
    found, failed = [], {}
    for job in jobs:
        bar.set_postfix_str(job.name)
        done = subprocess.run(
            [sys.executable, "-m", __spec__.name, json.dumps(job._asdict())],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env=environment(job.threads),
            check=False,
        )
        if done.returncode:
            failed[job.name] = f"the process ended with {done.returncode}: {done.stderr.strip()[-500:]}"
        else:
            found.append({"name": job.name, **json.loads(done.stdout.splitlines()[-1])})
        bar.update()
    return found, failed


def peak(device: torch.device) -> dict[str, Any]:
    """Peak memory of this process so far: on the GPU, or in main memory with all libraries.

    On Linux, ``getrusage`` includes the peak of the parent process, so the kernel's own record of this process is read.
    """
    if device.type == "cuda":
        return {"bytes": torch.cuda.max_memory_allocated(device), "of": "tensors on the GPU"}
    if _STATUS.is_file() and (line := re.search(r"VmHWM:\s*(\d+) kB", _STATUS.read_text())):
        return {"bytes": int(line[1]) * 1024, "of": "resident memory of the process"}
    import resource  # missing on Windows

    unit = 1 if sys.platform == "darwin" else 1024
    usage = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return {"bytes": usage, "of": "resident memory of the process"}


def main(text: str) -> None:
    """Does the job and prints its peak memory."""
    job = Job(**json.loads(text))
    torch.set_num_threads(job.threads)
    method = Method(job.method, job.device, job.image_size, job.quick)
    if job.what == "training":
        method.trainer(images_a_call(job.batch_size), job.batch_size, job.amp).run()
    else:
        infer = method.inference(job.batch_size, job.amp)
        for _ in range(_INFERENCES):
            infer()
    print(json.dumps(peak(method.device)))


if __name__ == "__main__":
    main(sys.argv[1])
