import hashlib
import json

import pytest

from scripts.data.datalist import datalist_hash, has_classes, load_datalist, load_items, require_both_classes


def item(name, label=0, group=None, **rest):
    return {"image": f"images/{name}.png", "label": label, "group": group or name, **rest}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "data/images").mkdir(parents=True)
    (tmp_path / "lists").mkdir()
    for name in ("a", "b", "c", "d", "mask"):
        (tmp_path / f"data/images/{name}.png").touch()
    return tmp_path


def write(folder, **content):
    path = folder / "lists/datalist.json"
    path.write_text(json.dumps({"dataset_dir": "../data", **content}))
    return path


def test_items_have_absolute_paths_and_keep_their_keys(folder):
    path = write(
        folder,
        training=[item("a")],
        test=[
            item("b"),
            item("c", 1, "patient", mask="images/mask.png", **{"class": "brain"}),
            item("d", 1, "patient"),
        ],
    )
    items = load_items(path, "test")
    data = (folder / "data/images").resolve()
    assert items[0] == {"image": str(data / "b.png"), "label": 0, "group": "b"}
    assert items[1] == {
        "image": str(data / "c.png"),
        "label": 1,
        "group": "patient",
        "mask": str(data / "mask.png"),
        "class": "brain",
    }
    assert load_items(path, "test", folder / "data") == items
    assert load_datalist(path)["test"][0]["image"] == "images/b.png"


def test_missing_files_are_counted_and_named(folder):
    path = write(folder, test=[item(name) for name in ("a", "w", "x", "y", "z")])
    with pytest.raises(FileNotFoundError, match=r"4 of 5 files of test.*w\.png.*x\.png.*y\.png, …\. Set dataset_dir"):
        load_items(path, "test")
    path = write(folder, test=[item("a", 1, mask="images/gone.png")])
    with pytest.raises(FileNotFoundError, match=r"gone\.png"):
        load_items(path, "test")


def test_missing_or_broken_datalist(folder):
    with pytest.raises(FileNotFoundError, match="none.json.*python -m bundle prepare"):
        load_datalist(folder / "none.json")
    broken = folder / "broken.json"
    for text, reason in (("{", "not JSON"), ("[]", "not a datalist"), ('{"train": []}', "training, validation, test")):
        broken.write_text(text)
        with pytest.raises(ValueError, match=f"broken.json: .*{reason}"):
            load_datalist(broken)


@pytest.mark.parametrize("content", [{"training": [item("a")]}, {"training": [item("a")], "test": []}])
def test_missing_or_empty_split(folder, content):
    with pytest.raises(ValueError, match=r"split 'test' is missing or empty. It holds training \(1\)"):
        load_items(write(folder, **content), "test")


@pytest.mark.parametrize("label", [2, -1, "1", None, True, 0.0])
def test_label_is_0_or_1(folder, label):
    with pytest.raises(ValueError, match=r"test\[0\].*a\.png.*label of 0 \(normal\) or 1"):
        load_datalist(write(folder, test=[item("a") | {"label": label}]))


@pytest.mark.parametrize("entry", ["a.png", {"image": "a.png", "label": 0}, {"label": 0, "group": "a"}])
def test_item_needs_image_and_group(folder, entry):
    with pytest.raises(ValueError, match=r"test\[0\] needs 'image' and 'group'"):
        load_datalist(write(folder, test=[entry]))


def test_only_test_holds_anomalies_unless_validation_is_labelled(folder):
    for split in ("training", "validation"):
        with pytest.raises(ValueError, match=f"{split} may hold normal items only"):
            load_datalist(write(folder, **{split: [item("a", 1)]}))
    load_datalist(write(folder, validation=[item("a", 1)], labelled_validation=True))
    with pytest.raises(ValueError, match="training may hold normal items only"):
        load_datalist(write(folder, training=[item("a", 1)], labelled_validation=True))


def test_group_in_two_splits(folder):
    path = write(folder, training=[item("a", group="p1")], test=[item("b", group="p1")])
    with pytest.raises(ValueError, match="group 'p1' is in training and in test"):
        load_datalist(path)


@pytest.mark.parametrize(("label", "lacking"), [(0, "anomalies"), (1, "normal images")])
def test_one_class_has_no_metrics(label, lacking):
    require_both_classes([item("a", 0), item("b", 1)], "datalist.json")
    with pytest.raises(ValueError, match=f"datalist.json: the test has no {lacking}"):
        require_both_classes([item("a", label), item("b", label)], "datalist.json")


def test_hash_is_that_of_the_file(folder):
    path = write(folder, test=[item("a")])
    assert datalist_hash(path) == hashlib.sha256(path.read_bytes()).hexdigest()


def test_metrics_by_class_need_the_class_of_every_item(caplog):
    brain, liver, unknown = item("a", **{"class": "brain"}), item("b", **{"class": "liver"}), item("c")
    assert has_classes([brain, liver])
    assert not has_classes([unknown])
    assert not caplog.text
    assert not has_classes([brain, unknown, liver])
    assert "1 of 3 images have no class" in caplog.text
