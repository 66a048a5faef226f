"""Implementations by others, each a long-lived process of another interpreter that measures when it is asked to.

Questions and answers are JSON, a line each: see ``peer_anomalib.py``. Between them the process does nothing.
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
_FP32_ONLY = "onnxruntime"  # on processors it has no bfloat16
_LAST_WORDS = 500  # characters of its messages that an error repeats


class PeerError(RuntimeError):
    """The other process cannot be started, has ended, or could not do what it was asked."""


class Peer:
    """The other process; use it in a ``with`` statement.

    Args:
        python: its interpreter.
        settings: device, image size and threads, which it gets too.
        script: what it runs.

    Raises:
        PeerError: if it cannot be started.
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
                env=environment(settings.threads, PYTHONSAFEPATH="1"),  # our modules beside the script are none of its
            )
        except OSError as error:
            self._messages.close()
            raise PeerError(
                f"{python}: cannot be started ({error}). make bench-peers makes its environment."
            ) from error

    def __enter__(self) -> Peer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        process: Any = self._process
        with suppress(OSError):  # it may have ended with a question unread
            process.stdin.close()  # which ends it
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
        self._messages.close()

    def ask(self, do: str, **how: Any) -> dict[str, Any]:
        """Asks for something to be done, and waits for the answer.

        Raises:
            PeerError: if the answer is an error, or none came.
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
    """Gives anomalib's training steps of ReverseDistillation, on as many images a call as ours."""
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
    """Gives anomalib's torch models, eager."""
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
    """Gives what anomalib exports of ReverseDistillation, at batch 1."""
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
