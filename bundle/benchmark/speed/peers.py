"""Measures implementations by others, each in a long-lived process of another interpreter that answers questions.

Questions and answers are JSON, one on each line: see ``peer_anomalib.py``. In between the process is idle.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from bundle.benchmark.speed.measuring import Call, Case
from bundle.benchmark.speed.methods import PRECISIONS
from bundle.benchmark.speed.settings import BATCHES, Settings, environment, images_a_call, named

SCRIPT = Path(__file__).with_name("peer_anomalib.py")
RUNTIMES = {"ONNX Runtime": "onnxruntime", "OpenVINO": "openvino"}
_FP32_ONLY = "onnxruntime"  # it has no bfloat16 on CPUs
_LAST_WORDS = 500  # characters of its output that an error quotes


class PeerError(RuntimeError):
    """The other process cannot be started, has ended, or answered with an error."""


class Peer:
    """Process of another interpreter, for use in a ``with`` statement.

    Args:
        python: Python interpreter.
        settings: Settings to pass on: device, image size, threads and quick.
        script: Script that answers the questions.

    Raises:
        PeerError: If the process cannot be started.
    """

    def __init__(self, python: Path, settings: Settings, script: Path = SCRIPT) -> None:
        self._messages = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115  closed with the process
        asked = {
            "device": str(settings.device),
            "image_size": settings.image_size,
            "threads": settings.threads,
            "quick": settings.quick,
        }
        try:
            self._process = subprocess.Popen(
                [str(python), str(script), json.dumps(asked)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._messages,
                text=True,
                env=environment(
                    settings.threads, PYTHONSAFEPATH="1"
                ),  # it must not import our modules beside the script
            )
        except OSError as error:
            self._messages.close()
            raise PeerError(
                f"{python}: cannot be started ({error}). make bench-peers sets up its environment."
            ) from error

    def __enter__(self) -> Peer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        process: Any = self._process
        with suppress(OSError):  # it may have ended without reading a question
            process.stdin.close()  # which ends it
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
        self._messages.close()

    def ask(self, do: str, **how: Any) -> dict[str, Any]:
        """Asks a question and waits for the answer.

        Args:
            do: Name of the question.
            **how: Arguments of the question.

        Raises:
            PeerError: If the answer is an error, or none comes.
        """
        process: Any = self._process
        try:
            process.stdin.write(json.dumps({"do": do, **how}) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except OSError:  # it has ended
            line = ""
        if not line:
            raise PeerError(f"{process.args[0]} {process.args[1]} has ended: {self._last_words()}")
        answer = json.loads(line)
        if "error" in answer:
            raise PeerError(answer["error"])
        return answer

    def _last_words(self) -> str:
        self._messages.seek(0)
        return self._messages.read().strip()[-_LAST_WORDS:] or "it said nothing."


def training(peer: Peer) -> list[Case]:
    """Cases of anomalib's training of ReverseDistillation, on as many images for each call as ours."""
    return [
        Case(
            named("anomalib ReverseDistillation training", batch_size, precision),
            "images",
            images_a_call(batch_size),
            _asking(peer, "train", batch=batch_size, images=images_a_call(batch_size), amp=amp),
        )
        for batch_size in BATCHES
        for precision, amp in PRECISIONS.items()
    ]


def inference(peer: Peer) -> list[Case]:
    """Cases of anomalib's torch models, in eager mode."""
    return [
        Case(
            named(f"anomalib {model} inference", batch_size, precision),
            "images",
            batch_size,
            _asking(peer, "infer", model=model, batch=batch_size, amp=amp),
        )
        for model in ("ReverseDistillation", "PatchCore")
        for batch_size in BATCHES
        for precision, amp in PRECISIONS.items()
    ]


def exports(peer: Peer) -> list[Case]:
    """Cases of ReverseDistillation as anomalib exports it, at batch size 1."""
    return [
        Case(
            named(f"anomalib ReverseDistillation, {name}", 1, precision),
            "images",
            1,
            _asking(peer, "exported", runtime=runtime, amp=amp),
        )
        for name, runtime in RUNTIMES.items()
        for precision, amp in PRECISIONS.items()
        if not (amp and runtime == _FP32_ONLY)
    ]


def _asking(peer: Peer, do: str, **how: Any) -> Callable[[], Call]:
    def call() -> float:
        return float(peer.ask(do, **how)["seconds"])

    return lambda: call
