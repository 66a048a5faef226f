"""``python -m bundle select`` on a small model: scores are the product's own, and what it refuses."""

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from bundle.__main__ import main
from bundle.select.anomalies import Anomalies
from bundle.select.normals import held_back, taken_evenly
from bundle.select.scoring import scores_of
from scripts.data.datalist import datalist_hash
from scripts.model.folder import ModelFolder
from scripts.model.predictor import Predictor

POOLINGS = ["top_1%", "mean"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("cache"))


def copied(model_folder: Path, path: Path, slices: dict[str, object]) -> Path:
    """Copy of a model folder whose training chose its slices otherwise."""
    shutil.copytree(model_folder, path, ignore=shutil.ignore_patterns("eval", "cache"))
    edit(path / "configs" / "train.json", "slices", slices)
    return path


def edit(file: Path, name: str, changes: dict[str, object]) -> None:
    """Changes values of one part of a JSON file."""
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, name: {**content[name], **changes}}))


def test_normals_are_the_slices_with_foreground_of_the_validation_patients(model_folder: Path, cache: str) -> None:
    normals = held_back({"m": ModelFolder(model_folder)}, {"m": {"cache_dir": cache}})
    assert sorted({item["group"] for item in normals}) == ["sub-07", "sub-08", "sub-09", "sub-10"]
    for group in ("sub-07", "sub-10"):
        scan = nib.load(next(item["image"] for item in normals if item["group"] == group)).get_fdata()
        filled = [index for index in range(10) if (scan[..., index] > scan.min() + 0.1 * np.ptp(scan)).any()]
        assert [item["slice"] for item in normals if item["group"] == group] == filled


def test_slices_are_taken_evenly_from_a_drawn_start() -> None:
    items = [{"slice": number} for number in range(100)]
    for seed in range(5):
        numbers = [item["slice"] for item in taken_evenly(items, 20, seed)]
        assert set(np.diff(numbers)) == {5}
        assert len(numbers) == 20
    assert taken_evenly(items, 20, 0) != taken_evenly(items, 20, 1)
    assert taken_evenly(items, 200, 0) == items


def test_normal_scores_are_those_of_inference(model_folder: Path, cache: str) -> None:
    folder, values = ModelFolder(model_folder), {"cache_dir": cache}
    items = held_back({"m": folder}, {"m": values})
    found = scores_of(folder, values, items[::3], POOLINGS, Anomalies())
    assert found.patients.tolist() == [item["group"] for item in items[::3]]
    model, expected = Predictor(model_folder, "cpu", cache)._model(), []
    for item in items[::3]:
        scan = model.preprocessing({"image": item["image"]})
        scan.pop("scan", None)  # so that it stays on the grid of the template, whose slices are selected by
        with torch.no_grad():
            scan["pred"] = model.inferer(scan["image"][None], model.network)[0]
        expected.append(model.postprocessing.transforms[0](scan)["slice_scores"][item["slice"]])
    np.testing.assert_allclose(found.scores["top_1%"]["normal"], expected, rtol=1e-5)
    assert (found.scores["mean"]["normal"] <= found.scores["top_1%"]["normal"]).all()


class Turned(Anomalies):
    """Makes a copy as it is and one upside down, of every second slice."""

    def __call__(self, image: torch.Tensor, body: np.ndarray, number: tuple[int, ...]) -> dict[str, torch.Tensor]:
        return {"same": image.clone(), "turned": image.flip(1)} if number[-1] % 2 else {}


def test_copies_score_as_the_scan_with_them_in_it_and_slices_without_room_are_left_out(
    model_folder: Path, cache: str
) -> None:
    folder, values = ModelFolder(model_folder), {"cache_dir": cache}
    items = held_back({"m": folder}, {"m": values})[:6]
    every = scores_of(folder, values, items, POOLINGS, Anomalies()).scores["mean"]["normal"]
    found = scores_of(folder, values, items, POOLINGS, Turned(), draws=2)
    scores = found.scores["mean"]
    assert found.slices.tolist() == [1, 3, 5, 1, 3, 5]
    np.testing.assert_allclose(scores["normal"], np.tile(every[1::2], 2), rtol=1e-6)
    np.testing.assert_allclose(scores["same"], scores["normal"], rtol=1e-6)
    assert not np.isclose(scores["turned"], scores["normal"], rtol=1e-6).any()
    with pytest.raises(ValueError, match="None of the 1 normal slices has a body"):
        scores_of(folder, values, items[:1], POOLINGS, Turned())


def test_anomalies_differ_from_draw_to_draw(model_folder: Path, cache: str) -> None:
    folder, values = ModelFolder(model_folder), {"cache_dir": cache}
    items = held_back({"m": folder}, {"m": values})[:6]
    scores = scores_of(folder, values, items, POOLINGS, Anomalies(), draws=2).scores["mean"]
    seen, lesions = scores["normal"][:6] > 0, scores["lesion"]  # some slices lie beyond the template's region
    assert seen.sum() >= 3
    assert not np.isclose(lesions[:6], lesions[6:], rtol=1e-6)[seen].any()


def test_the_verb_prints_and_writes_a_ranking_and_ends_with_what_to_take(
    model_folder: Path, cache: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(model_folder), "--cache-dir", cache, "--slices", "8", "--pooling", "max", "mean", "--device", "cpu"]
    assert main(["select", *words, "--out", str(tmp_path / "a.json")]) == 0
    printed = capsys.readouterr().out.strip().splitlines()
    content = json.loads((tmp_path / "a.json").read_text())
    assert (content["slices"], content["anomalies"], content["patients"], content["seed"]) == (8, 8, 4, 0)
    assert {row["pooling"] for row in content["ranking"]} == {"max", "mean"}
    for row in content["ranking"]:
        assert row["mean"] == pytest.approx((row["lesion"] + row["cut_paste"] + row["noise"]) / 3, abs=1e-12)
        assert (row["low"], row["high"]) == (None, None)  # of four patients
    best = content["ranking"][0]["pooling"]
    assert printed[-1].startswith(f"Take {model_folder} with {best}: add --set scoring#pooling {best} to")
    assert main(["select", *words, "--out", str(tmp_path / "again.json")]) == 0
    assert (tmp_path / "again.json").read_text() == (tmp_path / "a.json").read_text()


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["select", *words]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
    return line


def test_models_of_different_datalists_are_refused(
    model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    datalist = tmp_path / "other.json"
    content = json.loads((model_folder.parent / "datalist.json").read_text())
    datalist.write_text(json.dumps({**content, "dataset_dir": str(model_folder.parent)}))
    other = copied(model_folder, tmp_path / "other", {})
    edit(other / "configs" / "metadata.json", "model", {"datalist_sha256": datalist_hash(datalist)})
    evaluate = other / "configs" / "evaluate.json"
    evaluate.write_text(json.dumps({**json.loads(evaluate.read_text()), "datalist": str(datalist)}))
    line = refused(capsys, str(model_folder), str(other))
    assert "were trained by different datalists" in line
    assert "--datalist" in line


def test_models_that_held_back_other_slices_are_refused(
    model_folder: Path, cache: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = copied(model_folder, tmp_path / "other", {"slice_range": [0, 4]})
    line = refused(capsys, str(model_folder), str(other), "--cache-dir", cache)
    assert "held back different slices" in line


def test_without_normals_the_remedy_is_named(
    model_folder: Path, cache: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = json.loads((model_folder.parent / "datalist.json").read_text())
    path = tmp_path / "datalist.json"
    path.write_text(json.dumps({**content, "validation": [], "dataset_dir": str(model_folder.parent)}))
    line = refused(capsys, str(model_folder), "--cache-dir", cache, "--datalist", str(path))
    assert f"{path}: no normal patient in validation" in line
    assert "--validation-fraction" in line


def test_slices_that_were_held_out_of_training_scans_count(model_folder: Path, cache: str, tmp_path: Path) -> None:
    other = copied(model_folder, tmp_path / "other", {"held_out": 0.2, "reference_fraction": 0.0})
    normals = held_back({"m": ModelFolder(other)}, {"m": {"cache_dir": cache}})
    assert {item["group"] for item in normals} == {f"sub-{number:02}" for number in range(1, 11)}
    first = [item["slice"] for item in normals if item["group"] == "sub-01"]
    every = [item["slice"] for item in normals if item["group"] == "sub-07"]
    assert 1 <= len(first) < len(every)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--pooling", "median"], "Score pooling must be"),
        (["--slices", "0"], "--slices must be at least 1"),
        (["--size", "0"], "--size must be above 0"),
        (["--out", "table.txt"], "--out must end in .csv or .json"),
    ],
)
def test_a_wrong_option_is_named(
    words: list[str], text: str, model_folder: Path, cache: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert text in refused(capsys, str(model_folder), "--cache-dir", cache, *words)
