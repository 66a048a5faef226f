"""The folder that a training writes: what is in it, when it is there, and what it is called."""

import hashlib
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
from ignite.engine import Events

from bundle.__main__ import main
from scripts.model import configs, new_folder
from scripts.model.folder import ModelFolder
from scripts.model.new_folder import NewModelFolder
from scripts.model.provenance import Provenance
from scripts.networks import teachers
from tests.bare_model import ROOT, TRAIN, Bare, bare_model

VERBS = ("train", "calibrate", "evaluate", "inference")
CODE = (
    "bundle/__main__.py",
    "scripts/networks/selective_scan/native.c",
    "configs/scoring.json",
    "configs/logging.conf",
)
FILES = (*CODE, "docs/README.md", "docs/clinic.md", "docs/data_license.txt", "LICENSE", "pyproject.toml")


@pytest.fixture
def bare(bundle_args: dict[str, Any]) -> Bare:
    return bare_model([TRAIN, str(ROOT / "configs/data/ct.json")], without_range(bundle_args))


def without_range(values: dict[str, Any]) -> dict[str, Any]:
    """Windows take the place of a range."""
    return {name: value for name, value in values.items() if name != "intensity#intensity_range"}


def config(folder: Path, verb: str) -> dict[str, Any]:
    return json.loads((folder / "configs" / f"{verb}.json").read_text())


def test_it_is_a_complete_bundle_and_none_of_a_working_copy(bare: Bare, tmp_path: Path) -> None:
    folder = bare.write(tmp_path / "model")
    wanted = [*FILES, "models/model.pt", *(f"configs/{verb}.json" for verb in VERBS), "configs/metadata.json"]
    assert not [name for name in wanted if not (folder / name).is_file()]
    names = {path.name for path in folder.rglob("*")}
    assert not {"__pycache__", ".git", "tests", "cache", "eval", "datalist.json"} & names
    assert not any((folder / "configs" / overlay).exists() for overlay in ("data", "methods"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


def test_configs_have_overlays_and_options_merged_in_and_the_machine_left_out(
    bundle_args: dict[str, Any], tmp_path: Path
) -> None:
    machine = {"cache_dir": str(tmp_path / "mine"), "feature_cache#folder": str(tmp_path / "mine"), "run_name": "mine"}
    values = without_range(bundle_args) | machine | {"network_def#sigma": 3.0, "scoring#pooling": "mean"}
    bare = bare_model([TRAIN, str(ROOT / "configs/data/ct.json")], values)
    folder = bare.write(tmp_path / "model")
    plain = json.loads(Path(TRAIN).read_text())
    for verb in VERBS:
        content = config(folder, verb)
        assert content["image_size"] == 64
        assert content["windows"] == ["brain"]
        assert content["intensity"]["_target_"] == "scripts.transforms.Windowedd"
        assert content["preprocessing"]["crop_to_foreground"]
        assert content["network_def"]["sigma"] == 3.0
        assert content["network_def"]["local_teacher"]["name"] == "test_resnet"
        for name in ("bundle_root", "device", "cache_dir"):
            assert content[name] == plain[name]
        overlay = {"scan_pooling": "top_25%", "foreground_only": True}
        assert content["scoring"] == plain["scoring"] | overlay | {"pooling": "mean"}
    for verb in ("train", "evaluate"):
        assert config(folder, verb)["pixel_bins"] == 65536  # a training by this config has it, too
    train = config(folder, "train")
    assert (train["model_dir"], train["run_name"], train["resume"]) == (None, None, False)
    assert train["feature_cache"]["folder"] is None
    assert train["epochs"] == 2
    assert "mine" not in json.dumps([config(folder, verb) for verb in VERBS])


def test_what_infers_needs_no_datalist(bare: Bare, tmp_path: Path) -> None:
    folder = ModelFolder(bare.write(tmp_path / "model"))
    values = {"datalist": str(tmp_path / "gone.json"), "device": "$torch.device('cpu')"}
    for verb in ("inference", "calibrate"):
        assert folder.config(verb, **values).get_parsed_content("provenance").facts == {}


def test_a_training_makes_it_with_its_first_checkpoint(workflow: Callable[..., Any], tmp_path: Path) -> None:
    training = workflow("train.json", epochs=2)
    folder, seen = tmp_path / "model", []
    trainer = training.parser.get_parsed_content("train#trainer")

    def look(engine: Any) -> None:
        files = sorted(path.name for path in (folder / "models").glob("*"))
        card = (folder / "docs/README.md").read_text() if folder.exists() else ""
        seen.append((files, f"sha256 {_sha256(folder / 'models/model.pt')[:12]}" in card if files else False))

    trainer.add_event_handler(Events.EPOCH_STARTED, look)
    training.run()
    look(None)
    assert seen == [([], False), *[(["last.pt", "model.pt"], True)] * 2]
    assert [path.name for path in tmp_path.glob(".new-*")] == []


@pytest.mark.parametrize("broken", ["save", "card"])
def test_an_error_leaves_nothing_or_the_old_folder(
    broken: str, bare: Bare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise OSError("no space left")

    folder = bare.new_folder(tmp_path / "model")
    if broken == "card":
        monkeypatch.setattr(new_folder, "model_card", fail)
    with pytest.raises(OSError, match="no space left"):
        folder.write(fail if broken == "save" else bare.save)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()

    folder.write(bare.save)
    before = {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}
    if broken == "card":
        monkeypatch.setattr(new_folder, "model_card", fail)
    with pytest.raises(OSError, match="no space left"):
        folder.write(fail if broken == "save" else lambda _: None)
    after = {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}
    assert {path for path in before if after.get(path) != before[path]} <= {folder.path / "configs/metadata.json"}
    assert after.keys() == before.keys()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_kill_leaves_no_folder_or_the_old_checkpoint(
    bare: Bare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(content: Any, file: Any) -> None:
        file.write(b"half a checkpoint")
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)

    def killed(folder: NewModelFolder) -> None:
        if (child := os.fork()) == 0:
            with monkeypatch.context() as patch:
                patch.setattr(torch, "save", half)
                folder.write(bare.save)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL

    folder = bare.new_folder(tmp_path / "model")
    killed(folder)
    left = sorted(tmp_path.iterdir())  # which nobody takes for a model
    assert [path.name for path in left] == [left[0].name, f"{left[0].name}.lock"]
    assert left[0].name.startswith(".new-")
    folder.begin()
    assert list(tmp_path.iterdir()) == []
    folder.write(bare.save)
    before = folder.checkpoint.read_bytes()
    killed(folder)
    assert folder.checkpoint.read_bytes() == before
    archive = tmp_path / "model.zip"
    assert main(["export", str(folder.path), "-o", str(archive)]) == 0
    with zipfile.ZipFile(archive) as zipped:
        assert {name for name in zipped.namelist() if "/models/" in name} == {
            "model/models/",
            "model/models/model.pt",
        }


def test_a_training_leaves_the_unfinished_folders_of_others_alone(bare: Bare, tmp_path: Path) -> None:
    (tmp_path / ".new-of-0.6.0").mkdir()  # without a lock: nobody knows whether its process is gone
    holding = (
        "import sys, pathlib; from scripts.model.unfinished import unfinished\n"
        "with unfinished(pathlib.Path(sys.argv[1])) as folder: print(folder, flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", holding, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, text=True, stdin=-1, stdout=-1) as process:
        assert process.stdout is not None
        other = Path(process.stdout.readline().strip())
        bare.new_folder(tmp_path / "model").begin()
        assert other.is_dir()
        process.kill()
    bare.new_folder(tmp_path / "model").begin()
    assert [path.name for path in tmp_path.iterdir()] == [".new-of-0.6.0"]


def weights_file(path: Path, seed: int) -> Path:
    """Weights of a teacher with other random values."""
    torch.manual_seed(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file(timm.create_model("test_resnet", features_only=True).state_dict(), path)
    return path


def of_weights(values: dict[str, Any], files: dict[str, Path]) -> Bare:
    """A model whose teachers take the files."""
    for teacher, path in files.items():
        made = {"_target_": "scripts.networks.Teacher", "name": "test_resnet", "weights": str(path)}
        values = values | {f"network_def#{teacher}": made}
    return bare_model([TRAIN], values)


def test_weights_of_teachers_are_linked_and_found_when_the_original_is_gone(
    bundle_args: dict[str, Any], tmp_path: Path
) -> None:
    original = weights_file(tmp_path / "elsewhere" / "net.safetensors", 3)
    bare = of_weights(bundle_args, {"local_teacher": original})
    folder = bare.write(tmp_path / "model")
    (linked,) = (path for path in (folder / "models").iterdir() if path.suffix == ".safetensors")
    assert linked.name == f"test_resnet-{_sha256(original)[:12]}.safetensors"
    assert linked.stat().st_ino == original.stat().st_ino
    for verb in VERBS:
        weights = config(folder, verb)["network_def"]["local_teacher"]["weights"]
        assert weights == f"$@bundle_root + '/models/{linked.name}'"
    original.unlink()
    moved = shutil.move(folder, tmp_path / "moved")
    found: Any = ModelFolder(moved).config("inference").get_parsed_content("network_def")
    assert [one["sha256"] for one in found.identities()] == [one["sha256"] for one in bare.network.identities()]
    found.load_state_dict(torch.load(moved / "models/model.pt", weights_only=True)["model"])
    image = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(found.eval()(image), bare.network(image), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["net.safetensors", "model.pt"])
def test_weights_of_one_name_are_kept_apart(name: str, bundle_args: dict[str, Any], tmp_path: Path) -> None:
    files = {}
    for number, teacher in enumerate(("local_teacher", "global_teacher")):
        made = weights_file(tmp_path / teacher / "net.safetensors", number)
        files[teacher] = made.with_name(name)  # that of the checkpoint, too
        if name.endswith(".pt"):
            torch.save(safetensors.torch.load_file(made), files[teacher])
    bare = of_weights(bundle_args, files)
    folder = bare.write(tmp_path / "model")
    parser = ModelFolder(folder).config("inference")
    for teacher, original in files.items():
        copied = Path(parser.get_parsed_content(f"network_def#{teacher}#weights"))
        assert copied.parent == folder / "models"
        assert copied.samefile(original)
    assert torch.load(folder / "models/model.pt", weights_only=True).keys() == bare.states().keys()
    assert len(list((folder / "models").iterdir())) == 3


def test_fetched_weights_are_linked_and_named_below_the_folder(
    bundle_args: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched = weights_file(tmp_path / "models" / "fetched.safetensors", 5)
    places = []

    def teacher_weights(name: str, models_dir: str | Path, progress: bool = True) -> Path:
        places.append((name, str(models_dir)))
        return Path(models_dir) / fetched.name

    for module in (new_folder, teachers):
        monkeypatch.setattr(module, "teacher_weights", teacher_weights)
    place = {"models_dir": "$@bundle_root + '/models'"}
    resnet = {"_target_": "scripts.networks.Teacher", "name": "test_resnet"}
    bare = bare_model([TRAIN], bundle_args | {"network_def#local_teacher": resnet | place})
    bare.config["network_def"]["local_teacher"].pop("models_dir")
    monkeypatch.chdir(tmp_path)
    folder = bare.write(tmp_path / "model")
    assert (folder / "models" / fetched.name).samefile(fetched)
    assert config(folder, "inference")["network_def"]["local_teacher"] == resnet | place
    monkeypatch.chdir("/")
    places.clear()
    ModelFolder(folder).config("inference").get_parsed_content("network_def")
    assert places == [("test_resnet", str(folder / "models"))]


def test_code_that_is_read_only_and_without_times_makes_a_folder_that_can_be_written(
    bare: Bare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = bare.write(tmp_path / "code")
    for path in (*code.rglob("*"), code):
        os.utime(path, (0, 0))
        path.chmod(path.stat().st_mode & ~0o222)
    for module in (new_folder, configs):
        monkeypatch.setattr(module, "ROOT", code)
    folder = bare.write(tmp_path / "model")
    assert [path for path in (folder, *folder.rglob("*")) if not path.stat().st_mode & stat.S_IWUSR] == []
    assert main(["export", str(folder)]) == 0
    assert (tmp_path / "model.zip").is_file()
    for path in (code, *code.rglob("*")):  # for pytest to remove
        path.chmod(path.stat().st_mode | stat.S_IWUSR)


@pytest.mark.parametrize("name", ["pdd_detection", "DeepEdit-brain", "deepgrow", "Classification1"])
def test_a_name_that_would_mislead_monai_label_is_refused_where_given_and_avoided_where_derived(
    name: str, bare: Bare, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=f"MONAI Label takes a model named {name} for another kind"):
        bare.new_folder(tmp_path / name)
    derived = bare.new_folder(None, run_name=name).path
    assert not re.search("detection|deepedit|deepgrow|classification", derived.name, re.IGNORECASE)
    assert derived.name


def test_a_given_name_that_is_taken_is_refused_and_a_derived_one_numbered(bare: Bare, tmp_path: Path) -> None:
    first = bare.new_folder(None)
    assert first.path == tmp_path / "models" / f"PDD-{bare.provenance.facts['data']}-seed-0"
    meanwhile = bare.new_folder(None)  # a training of the same name that began at the same time
    first.write(bare.save)
    written = first.checkpoint.read_bytes()
    assert bare.new_folder(None).path.name == f"{first.path.name}-2"
    meanwhile.write(bare.save)
    assert meanwhile.path.name == f"{first.path.name}-2"
    assert json.loads((meanwhile.path / "configs/metadata.json").read_text())["model"]["name"] == meanwhile.path.name
    assert first.checkpoint.read_bytes() == written
    assert bare.new_folder(None).path.name == f"{first.path.name}-3"

    with pytest.raises(FileExistsError, match=r"exists: name another --model_dir, go on with its training by --resume"):
        bare.new_folder(first.path)
    with pytest.raises(FileExistsError, match="exists: name another --run_name"):
        bare.new_folder(None, run_name=first.path.name)
    late = bare.new_folder(tmp_path / "late")
    (tmp_path / "late").mkdir()
    late.write(bare.save)  # rather than to lose what was trained
    assert (late.path, list((tmp_path / "late").iterdir())) == (tmp_path / "late-2", [])


def test_resuming_needs_a_training_to_go_on_with_and_keeps_the_folder(bare: Bare, tmp_path: Path) -> None:
    path = tmp_path / "model"
    with pytest.raises(FileNotFoundError, match=r"no checkpoint .*model/models/last\.pt to resume from.*--model_dir"):
        bare.new_folder(path, resume=True)
    bare.write(path)
    (path / "models/last.pt").write_bytes(b"")
    (path / "configs/train.json").write_text("mine")
    resumed = bare.new_folder(path, resume=True)
    assert resumed.path == path
    (path / "models/model.pt").unlink()
    resumed.write(bare.save)
    assert (path / "models/model.pt").is_file()
    assert (path / "configs/train.json").read_text() == "mine"


def test_metadata_and_card_say_data_teachers_hashes_and_seed(bare: Bare, tiny_dataset: Path, tmp_path: Path) -> None:
    folder = bare.write(tmp_path / "model")
    metadata = json.loads((folder / "configs/metadata.json").read_text())
    about, sha256 = metadata["model"], _sha256(folder / "models/model.pt")
    assert (about["name"], about["method"], about["seed"], about["modality"]) == ("model", "PDD", 0, "CT")
    assert about["checkpoint_sha256"] == sha256
    assert about["datalist_sha256"] == _sha256(tiny_dataset)
    assert about["teachers"] == bare.network.identities()
    assert about["untrained_teachers"] == ["test_resnet", "vmamba_pico"]
    assert about["training"] == {"patients": 8, "images": 16, "duplicates": 0}
    assert metadata["network_data_format"]["inputs"]["image"]["modality"] == "CT"
    plain = json.loads((ROOT / "configs/metadata.json").read_text())
    assert {name for name in metadata if metadata[name] != plain.get(name)} == {"model", "network_data_format"}
    card = (folder / "docs/README.md").read_text()
    rows = dict(re.findall(r"^\| (.+?) \| (.+) \|$", card, re.MULTILINE))
    assert rows["Checkpoint"] == f"sha256 {sha256[:12]}"
    assert rows["Datalist"] == f"sha256 {_sha256(tiny_dataset)[:12]}"
    assert rows["Seed"] == "0"
    assert rows["Modality"] == "CT"
    assert rows["Data"] == about["data"]
    assert rows["Trained on"] == "8 patients, 16 scans or images"
    for teacher in about["teachers"]:
        assert f"{teacher['name']}, untrained, seed 0, sha256 {teacher['sha256'][:12]}" in rows["Teachers"]
    assert card.startswith("# model\n\nFor research.")
    assert card.endswith("## Scores\n\nNot evaluated.\n")


def test_the_datalist_is_remembered_by_path_and_hash(
    bare: Bare, tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "datalist.json"
    shutil.copy(tiny_dataset, mine)
    monkeypatch.chdir(tmp_path)
    remembered = {"datalist": "datalist.json", "dataset_dir": str(tiny_dataset.parent / "images")}
    bare.new_folder(tmp_path / "model", remembered=remembered).write(bare.save)
    for verb in ("train", "calibrate", "evaluate"):
        assert config(tmp_path / "model", verb)["datalist"] == str(mine)
        assert config(tmp_path / "model", verb)["dataset_dir"] == remembered["dataset_dir"]
    mine.write_text(json.dumps(json.loads(mine.read_text()) | {"name": "changed"}))
    for verb in ("calibrate", "evaluate"):
        assert main([verb, "model"]) == 1
        said = capsys.readouterr().err
        assert f"{mine} has changed since the training" in said
        assert f"name it: --datalist {mine}" in said
    mine.unlink()
    assert main(["evaluate", "model"]) == 1
    assert f"The datalist {mine} of the training is not there: name it by --datalist" in capsys.readouterr().err


def test_an_evaluation_puts_its_scores_into_the_card(
    bundle_args: dict[str, Any], tiny_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = bare_model([TRAIN], bundle_args).write(tmp_path / "model")
    changed = tiny_dataset.with_name("changed.json")
    changed.write_text(json.dumps(json.loads(tiny_dataset.read_text()) | {"made_by": "another"}))
    assert main(["evaluate", str(folder), "--datalist", str(changed)]) == 0  # as it is named
    metrics = json.loads((folder / "eval/test/metrics.json").read_text())["metrics"]
    card = (folder / "docs/README.md").read_text()
    about, scores = card.split("## Scores\n\n")
    rows = dict(re.findall(r"^\| (.+?) \| (.+) \|$", scores, re.MULTILINE))
    assert rows["image auroc"] == f"{metrics['image_auroc']:.3f}"
    assert "8 scans or images of 4 patients" in scores
    assert "| Method | PDD |" in about
    assert f"{metrics['image_auroc']:.4f}" in capsys.readouterr().out


def test_a_derived_name_says_method_data_and_seed(tmp_path: Path) -> None:
    facts = Provenance(method="RD4AD", seed=7)
    made = NewModelFolder(None, tmp_path, None, False, facts, "{}", {})
    assert made.path == tmp_path / "models" / "RD4AD-unknown-data-seed-7"


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
