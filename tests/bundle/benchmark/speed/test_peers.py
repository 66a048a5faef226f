"""Questions to another interpreter, answered by a stand-in for anomalib's script."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tqdm import tqdm

from bundle.benchmark.speed import peers
from bundle.benchmark.speed.measuring import Case, take
from bundle.benchmark.speed.peers import Peer, PeerError
from bundle.benchmark.speed.settings import Settings

FAKE = """
import json, os, sys

settings = json.loads(sys.argv[1])
for line in sys.stdin:
    question = json.loads(line)
    do = question.pop("do")
    if do == "echo":
        answer = {"settings": settings, "threads": os.environ["OMP_NUM_THREADS"], "path": sys.path[0], **question}
    elif do == "leave":
        print("my last words", file=sys.stderr)
        sys.exit(3)
    elif do == "infer" and question["model"] == "PatchCore":
        answer = {"error": "RuntimeError: no memory bank"}
    else:
        answer = {"seconds": question.get("batch", 1) / 4 + question["amp"]}
    print(json.dumps(answer), flush=True)
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "fake.py"
    path.write_text(FAKE)
    return path


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(torch.device("cpu"), 64, 3, 2, True, tmp_path)


def test_the_peer_gets_the_settings_and_keeps_none_of_our_modules(script: Path, settings: Settings) -> None:
    with Peer(Path(sys.executable), settings, script) as peer:
        answer = peer.ask("echo", word="one\ntwo")
    assert answer["settings"] == {"device": "cpu", "image_size": 64, "threads": 3, "quick": True}
    assert answer["threads"] == "3"
    assert answer["word"] == "one\ntwo"
    assert answer["path"] != str(script.parent)


def test_an_error_of_the_peer_is_ours_and_the_talk_goes_on(script: Path, settings: Settings) -> None:
    with Peer(Path(sys.executable), settings, script) as peer:
        with pytest.raises(PeerError, match="^RuntimeError: no memory bank$"):
            peer.ask("infer", model="PatchCore", amp=False)
        assert peer.ask("train", batch=8, amp=True) == {"seconds": 3.0}


def test_a_peer_that_has_ended_is_told_with_its_last_words(script: Path, settings: Settings) -> None:
    with Peer(Path(sys.executable), settings, script) as peer:
        for _ in range(2):
            with pytest.raises(PeerError, match="fake.py has ended: my last words"):
                peer.ask("leave")


def test_a_missing_interpreter_is_told_with_the_remedy(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(PeerError, match="bin/python: cannot be started .*make bench-peers"):
        Peer(tmp_path / "bin" / "python", settings)


def test_the_process_ends_with_the_statement(script: Path, settings: Settings) -> None:
    with Peer(Path(sys.executable), settings, script) as peer:
        process: Any = peer._process
        assert process.poll() is None
    assert process.poll() == 0


def test_rounds_alternate_between_ours_and_theirs(script: Path, settings: Settings) -> None:
    turns: list[str] = []

    def ours() -> float:
        turns.append("ours")
        return 1.0

    class Noting(Peer):
        def ask(self, do: str, **how: Any) -> dict[str, Any]:
            turns.append(f"{do} {how.get('batch')} {how['amp']}")
            return super().ask(do, **how)

    with Noting(Path(sys.executable), settings, script) as peer:
        cases = [Case("ours", "images", 8, lambda: ours), *peers.training(peer)]
        taken, failed = take(cases, settings.rounds, tqdm(disable=True))
    one_round = ["ours", "train 1 False", "train 1 True", "train 8 False", "train 8 True"]
    assert turns == one_round * 3
    assert failed == {}
    seconds = {figure["name"]: figure["seconds"] for figure in taken}
    assert seconds["anomalib ReverseDistillation training, batch 8, bf16"] == [3.0, 3.0]
    assert seconds["anomalib ReverseDistillation training, batch 1, fp32"] == [0.25, 0.25]


def test_what_the_peer_cannot_do_is_left_out_by_name(script: Path, settings: Settings) -> None:
    with Peer(Path(sys.executable), settings, script) as peer:
        taken, failed = take([*peers.inference(peer), *peers.exports(peer)], 1, tqdm(disable=True))
    assert set(failed.values()) == {"PeerError: RuntimeError: no memory bank"}
    assert all("PatchCore" in name for name in failed)
    assert [figure["name"] for figure in taken if "inference" not in figure["name"]] == [
        "anomalib ReverseDistillation, ONNX Runtime, batch 1, fp32",
        "anomalib ReverseDistillation, OpenVINO, batch 1, fp32",
        "anomalib ReverseDistillation, OpenVINO, batch 1, bf16",
    ]


def test_anomalibs_script_imports_nothing_of_ours_and_answers_an_unknown_question_with_an_error() -> None:
    source = peers.SCRIPT.read_text()
    assert "bundle" not in source.split('"""', 2)[2]
    assert "scripts" not in source.split('"""', 2)[2]
    asked = json.dumps({"device": "cpu", "image_size": 64, "threads": 1, "quick": True})
    questions = '{"do": "dance"}\n{"do": "__init__"}\n'
    done = subprocess.run(
        [sys.executable, str(peers.SCRIPT), asked], input=questions, capture_output=True, text=True, check=True
    )
    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        {"error": "ValueError: unknown question 'dance'"},
        {"error": "ValueError: unknown question '__init__'"},
    ]
