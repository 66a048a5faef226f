"""Labels of single slices: from a table into the datalist, and from there into the metrics of slices."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from monai.data import MetaTensor

from bundle.__main__ import main
from scripts.data.datalist import load_test_items
from scripts.transforms import SliceLabelsd

LABELS = {"ann": [0, 0, 0, 0], "bob": [0, 1, 1, 0], "cat": [0, 0, 0]}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Scans of a normal and an abnormal patient with labels of their slices, and of two without."""
    for name, place, slices in [
        ("ann", "normal", 4),
        ("bob", "abnormal", 4),
        ("cat", "normal", 3),
        ("dan", "normal", 3),
    ]:
        folder = tmp_path / "scans" / place / name
        folder.mkdir(parents=True)
        voxels = np.random.default_rng(slices).integers(0, 99, (8, 8, slices)).astype(np.int16)
        nib.save(nib.Nifti1Image(voxels + len(name) * ord(name[0]), np.eye(4)), folder / "ct.nii.gz")
    return tmp_path / "scans"


@pytest.fixture
def prepared(tree: Path) -> Callable[..., dict[str, Any]]:
    def run(labels: dict[str, list[int]], column: str = "label", *options: str) -> dict[str, Any]:
        rows = [(name, number, one) for name, part in labels.items() for number, one in enumerate(part)]
        table, out = tree.parent / "slices.csv", tree.parent / "datalist.json"
        pd.DataFrame(rows, columns=["patient", "slice", column]).to_csv(table, index=False)
        words = ["prepare", str(tree), "--out", str(out), "--slice-labels", str(table), "--force", *options]
        assert main([*words, "--train-count", "1"]) == 0
        return json.loads(out.read_text())

    return run


def test_every_labelled_scan_keeps_a_digit_a_slice(prepared: Callable[..., dict[str, Any]]) -> None:
    content = prepared(LABELS, "bleeding", "--slice-label-column", "bleeding")
    items = {item["group"]: item for split in ("training", "test") for item in content[split]}
    assert {name: item.get("slice_labels") for name, item in items.items()} == {
        "ann": "0000",
        "bob": "0110",
        "cat": "000",
        "dan": None,
    }


@pytest.mark.parametrize(
    ("labels", "options", "texts"),
    [
        ({"bob": [0, 1, 1]}, (), ["bob has 3 lines", "4 axial slices"]),
        ({"bob": [0, 0, 0, 0]}, (), ["0 slices have label 1", "counts as anomalous"]),
        ({"ann": [0, 0, 1, 0]}, (), ["1 slices have label 1", "counts as normal"]),
        ({"ann": [0, 0, 2, 0]}, (), ["label is 0 (normal) or 1, not [2]"]),
        (LABELS, ("--slice-label-column", "tumour"), ["no column tumour, only patient, slice, label"]),
    ],
)
def test_labels_that_do_not_fit_are_refused(
    prepared: Callable[..., dict[str, Any]],
    labels: dict[str, list[int]],
    options: tuple[str, ...],
    texts: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(AssertionError):
        prepared(labels, "label", *options)
    told = capsys.readouterr().err
    assert all(text in told for text in texts), told


def test_test_items_have_labels_where_every_one_has(prepared: Callable[..., dict[str, Any]], tree: Path) -> None:
    content = prepared(LABELS)
    path = tree.parent / "datalist.json"
    content["test"] = [{**item, "slice_labels": item.get("slice_labels", "000")} for item in content["test"]]
    path.write_text(json.dumps(content))
    assert all(item["slice_labels"] for item in load_test_items(path))
    del content["test"][0]["slice_labels"]
    path.write_text(json.dumps(content))
    assert not any("slice_labels" in item for item in load_test_items(path))


def scored(labels: str, empty: list[bool]) -> dict[str, Any]:
    return {
        "image": MetaTensor(torch.zeros(1), meta={"filename_or_obj": "bob.nii"}),
        "score": torch.tensor(0.9),
        "slice_scores": torch.tensor([0.1, 0.9, 0.3, 0.4]),
        "empty_slices": torch.tensor(empty),
        "top_slices": torch.tensor([1]),
        "label": 1,
        "group": "bob",
        "slice_labels": labels,
    }


def test_slices_are_ranked_by_their_labels_without_empty_ones() -> None:
    found = SliceLabelsd()(scored("0110", [True, False, False, False]))
    assert found["image_numbers"].tolist() == [1, 2, 3]
    assert found["image_labels"].tolist() == [True, True, False]
    torch.testing.assert_close(found["image_scores"], torch.tensor([0.9, 0.3, 0.4]))


def test_labels_of_another_plane_are_refused() -> None:
    with pytest.raises(ValueError, match="bob.nii has 4 slices in this plane.*labels of 3"):
        SliceLabelsd()(scored("011", [False] * 4))
