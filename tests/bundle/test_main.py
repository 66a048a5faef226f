"""``python -m bundle``: what its help says, and what a wrong input is told."""

import subprocess
import sys
from pathlib import Path

import pytest

from bundle.__main__ import VERBS, description, main

ROOT = Path(__file__).parents[2]


def help_of(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit, match="0"):
        main([*words, "--help"])
    return " ".join(capsys.readouterr().out.split())


def test_help_lists_every_verb_with_what_it_does(capsys: pytest.CaptureFixture[str]) -> None:
    text = help_of(capsys)
    assert "python -m monai.bundle run" in text  # where training, evaluation and inference are
    for name in VERBS:
        assert f"{name} {description(name).splitlines()[0].rstrip('.')}" in text


@pytest.mark.parametrize("name", VERBS)
def test_the_help_of_a_verb_says_what_it_does(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = help_of(capsys, name)
    assert text.startswith(f"usage: python -m bundle {name}")
    assert " ".join(description(name).split()) in text


def test_a_verb_leaves_alone_what_only_others_need() -> None:
    program = "import sys; from bundle.__main__ import main; main(['weights', 'no_such_net']); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "bundle.weights" in done.stdout.split()
    assert "bundle.prepare" not in done.stdout.split()


def test_an_unknown_verb_is_told_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["train"])
    error = capsys.readouterr().err
    assert all(name in error for name in VERBS)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["prepare", "nowhere", "--out", "datalist.json"], "nowhere"),
        (["weights", "no_such_net"], "no_such_net"),
        (["phantom", "new", "--subjects", "1"], "ask for more subjects"),
    ],
)
def test_an_error_is_one_line_and_exit_code_1(
    arguments: list[str],
    text: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert text in line


def test_a_process_exits_as_its_verb_says(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bundle", "prepare", str(tmp_path / "nowhere"), "--out", str(tmp_path / "o.json")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("python -m bundle prepare: ")
    assert len(done.stderr.strip().splitlines()) == 1
