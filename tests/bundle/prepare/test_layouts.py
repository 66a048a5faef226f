import os
from pathlib import Path

import pytest

from bundle.prepare.layouts import LAYOUTS, Layout, find_layout, read_table


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_folder_of_no_layout_says_what_was_looked_for_and_found(tmp_path):
    with pytest.raises(ValueError, match="nothing, the folder is empty"):
        find_layout(tmp_path)
    touch(tmp_path, "cats/a.png", "readme.txt")
    with pytest.raises(ValueError, match=r"Found: cats/, readme.txt") as raised:
        find_layout(tmp_path)
    assert all(name in str(raised.value) for name in LAYOUTS)
    with pytest.raises(ValueError, match="yes/ and no/") as raised:
        find_layout(tmp_path, "yes_no")
    assert "ground_truth" not in str(raised.value)
    with pytest.raises(FileNotFoundError, match="gone"):
        find_layout(tmp_path / "gone")


def test_hidden_and_other_files_are_no_images(tmp_path):
    touch(tmp_path, "yes/a.PNG", "no/b.jpeg", "no/._b.jpeg", "no/.DS_Store", "no/Thumbs.db", "__MACOSX/yes/a.png")
    layout, samples = find_layout(tmp_path)
    assert layout == "yes_no"
    assert {(sample.image.name, sample.label) for sample in samples} == {("a.PNG", 1), ("b.jpeg", 0)}


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("PNEUMONIA/person12_bacteria_46.jpeg", "person12"),
        ("PNEUMONIA/BACTERIA-1008087-0001.jpeg", "BACTERIA-1008087"),
        ("NORMAL/IM-0115-0001.jpeg", "IM-0115"),
        ("NORMAL/IM-0439-0001-0002.jpeg", "IM-0439"),
        ("NORMAL/NORMAL2-IM-0117-0001.jpeg", "NORMAL2-IM-0117"),
        ("NORMAL/other.jpeg", "chest_xray/test/NORMAL/other.jpeg"),
    ],
)
def test_patient_of_a_chest_xray(tmp_path, name, group):
    (tmp_path / "chest_xray/train/NORMAL").mkdir(parents=True)
    touch(tmp_path, "chest_xray/test/NORMAL/x.jpeg", f"chest_xray/test/{name}")
    layout, samples = find_layout(tmp_path)
    assert layout == "zhanglab"
    assert group in {sample.group for sample in samples}


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ("image,finding\na.png,1", "needs columns image and label, has image, finding"),
        ("image,label\na.png,1\nb.png,yes", "line 3 needs a label of 0 or 1.*'yes'"),
        ("image,label,split\na.png,1,testing", "line 2 .*split of train, valid, test or none.*'testing'"),
        ("image,label,split\na.png,1,test\nb.png,0,", "some images a split and others none"),
        ("", "not a CSV table"),
    ],
)
def test_wrong_table(tmp_path, rows, reason):
    (tmp_path / "table.csv").write_text(rows)
    with pytest.raises(ValueError, match=f"(?s)table.csv: .*{reason}"):
        read_table(tmp_path, tmp_path / "table.csv")


def test_wrong_meta_json_and_two_tables(tmp_path):
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text("image,label\na.png,1\n")
    with pytest.raises(ValueError, match="several tables: a.csv, b.csv. Name one with --csv"):
        find_layout(tmp_path)
    (tmp_path / "meta.json").write_text('{"train": []}')
    with pytest.raises(ValueError, match="meta.json: not the meta.json of an ADer data set"):
        find_layout(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such table"):
        read_table(tmp_path, tmp_path / "c.csv")


def test_folder_without_permission_does_not_stop_the_search(tmp_path, monkeypatch):
    touch(tmp_path, "locked/a.png", "open/train/NORMAL/a.jpeg", "open/test/NORMAL/b.jpeg")
    is_dir, listed = Path.is_dir, Path.iterdir

    def let_in(path):  # permissions do not hold back an administrator
        if "locked" in path.parts:
            raise PermissionError(13, "Permission denied", str(path))
        return True

    monkeypatch.setattr(Path, "iterdir", lambda path: let_in(path) and listed(path))
    monkeypatch.setattr(Path, "is_dir", lambda path: let_in(path.parent) and is_dir(path))
    monkeypatch.setattr(os, "access", lambda path, mode: path.name != "locked")
    assert find_layout(tmp_path)[0] == "zhanglab"
    assert find_layout(tmp_path, "more", [Layout("more", "", lambda root: ["sample"])]) == ("more", ["sample"])
