import argparse
import itertools
import json

import numpy as np
import pytest
from PIL import Image

from bundle import prepare
from scripts.data.datalist import load_items


@pytest.fixture
def data(tmp_path):
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


@pytest.fixture
def draw(data):
    """Writes images that all differ, or that all hold one ``value``."""
    values = itertools.count()

    def write(*names, shape=(8, 8), dtype=np.uint8, value=None):
        for name in names:
            number = next(values)
            image = np.full(shape, number % 256 if value is None else value, dtype)
            if value is None:
                image[0, 0] = number // 256
            (data / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(data / name)

    return write


@pytest.fixture
def run(data, tmp_path):
    def call(*options):
        parser = argparse.ArgumentParser()
        prepare.configure(parser)
        out = tmp_path / "lists/datalist.json"
        assert prepare.run(parser.parse_args([str(data), "--out", str(out), *map(str, options)])) == 0
        return json.loads(out.read_text()), out

    return call


def counts(datalist):
    return {
        split: tuple(sum(item["label"] == label for item in datalist[split]) for label in (0, 1))
        for split in ("training", "validation", "test")
    }


@pytest.mark.parametrize("inside", ["head_ct", "head_ct/head_ct"])
def test_headct(data, draw, run, inside):
    draw(*(f"{inside}/{i:03}.png" for i in range(20)))
    (data / "labels.csv").write_text("id, hemorrhage\n" + "".join(f"{i},{int(i < 8)}\n" for i in range(20)))
    datalist, out = run("--modality", "CT", "--seed", 7)
    assert counts(datalist) == {"training": (9, 0), "validation": (0, 0), "test": (3, 8)}
    assert (datalist["layout"], datalist["modality"], datalist["seed"]) == ("headct", "CT", 7)
    assert datalist["name"] == "data"
    assert datalist["dataset_dir"] == "../data"
    assert {item["image"] for item in datalist["test"] if item["label"]} == {f"{inside}/{i:03}.png" for i in range(8)}
    assert len(load_items(out, "test")) == 11
    assert run("--force", "--seed", 7)[0]["training"] == datalist["training"]
    assert run("--force", "--seed", 8)[0]["training"] != datalist["training"]


def test_brain_mri(draw, run):
    draw(*(f"no/{i}.png" for i in range(98)), *(f"yes/{i}.png" for i in range(155)))
    datalist, _ = run("--validation-fraction", 0.1)
    assert counts(datalist) == {"training": (66, 0), "validation": (7, 0), "test": (25, 155)}
    assert counts(run("--train-count", 30, "--force")[0])["training"] == (30, 0)
    assert counts(run("--train-fraction", 0.5, "--force")[0])["training"] == (49, 0)


@pytest.mark.parametrize("base", ["", "chest_xray/"])
def test_zhanglab(draw, run, capsys, base):
    draw(*(f"{base}train/NORMAL/IM-{i // 2:04}-000{i % 2}.jpeg" for i in range(8)))
    draw(f"{base}train/PNEUMONIA/person1_virus_6.jpeg", f"{base}test/NORMAL/IM-0900-0001.jpeg")
    draw(f"{base}test/PNEUMONIA/person1_virus_7.jpeg", f"{base}test/PNEUMONIA/person1_virus_8.jpeg")
    datalist, _ = run("--validation-fraction", 0.5)
    assert counts(datalist) == {"training": (4, 0), "validation": (4, 0), "test": (1, 2)}
    groups = [{item["group"] for item in datalist[split]} for split in ("training", "validation")]
    assert len(groups[0]) == len(groups[1]) == 2
    assert not groups[0] & groups[1]
    assert {item["group"] for item in datalist["test"]} == {"IM-0900", "person1"}
    assert "Not used: 1 anomalies of the data set's own training split" in capsys.readouterr().out


@pytest.mark.parametrize("classes", [[""], ["bottle/", "cable/"]])
def test_mvtec(data, draw, run, capsys, classes):
    for name in classes:
        draw(*(f"{name}train/good/{i}.png" for i in range(3)))
        draw(f"{name}test/good/0.png", f"{name}test/crack/0.png", f"{name}test/crack/1.png", f"{name}test/dent/0.png")
        draw(f"{name}ground_truth/crack/0_mask.png", f"{name}ground_truth/crack/1.png", value=255)
    datalist, out = run()
    n = len(classes)
    assert counts(datalist) == {"training": (3 * n, 0), "validation": (0, 0), "test": (n, 3 * n)}
    assert datalist["classes"] == (["data"] if n == 1 else ["bottle", "cable"])
    masks = {item["image"]: item["mask"] for item in datalist["test"] if "mask" in item}
    assert masks[f"{classes[0]}test/crack/0.png"] == f"{classes[0]}ground_truth/crack/0_mask.png"
    assert masks[f"{classes[0]}test/crack/1.png"] == f"{classes[0]}ground_truth/crack/1.png"
    assert len(masks) == 2 * n
    assert f"{n} of {3 * n} anomalies have no mask: {classes[0]}test/dent/0.png" in capsys.readouterr().err
    assert {item["class"] for item in load_items(out, "training")} == set(datalist["classes"])


def test_ader(data, draw, run):
    def entry(name, anomaly):
        draw(f"{name}.png")
        mask = name.replace("test", "ground_truth") + ".png" if anomaly else ""
        if mask:
            draw(mask, value=1)
        return {"img_path": f"{name}.png", "mask_path": mask, "cls_name": "brain", "anomaly": anomaly}

    meta = {
        "train": {"brain": [entry("brain/train/good/0", 0)], "liver": [entry("liver/train/good/0", 0)]},
        "test": {"brain": [entry("brain/test/good/0", 0), entry("brain/test/tumour/0", 1)]},
    }
    (data / "meta.json").write_text(json.dumps(meta))
    datalist, _ = run()
    assert datalist["layout"] == "ader"
    assert datalist["classes"] == ["brain", "liver"]
    assert counts(datalist) == {"training": (2, 0), "validation": (0, 0), "test": (1, 1)}
    assert datalist["test"][1]["mask"] == "brain/ground_truth/tumour/0.png"


@pytest.mark.parametrize(("base", "masks"), [("", "anomaly_mask"), ("Brain/", "label")])
def test_bmad(draw, run, capsys, masks, base):
    draw(*(f"{base}train/good/{i}.png" for i in range(3)))
    for split in ("valid", "test"):
        draw(f"{base}{split}/good/img/0.png", f"{base}{split}/Ungood/img/1.png")
        draw(f"{base}{split}/good/{masks}/0.png", value=0)
        draw(f"{base}{split}/Ungood/{masks}/1.png", value=1)
    datalist, _ = run()
    assert datalist["layout"] == "bmad"
    assert counts(datalist) == {"training": (3, 0), "validation": (1, 0), "test": (1, 1)}
    assert datalist["test"][1]["mask"] == f"{base}test/Ungood/{masks}/1.png"
    assert "own validation split" in capsys.readouterr().out
    labelled, out = run("--labelled-validation", "--force")
    assert counts(labelled)["validation"] == (1, 1)
    assert len(load_items(out, "validation")) == 2


def test_csv(data, draw, run, tmp_path):
    draw("a.png", "b.png", "c.png", "d.png")
    draw("m.png", value=3)
    rows = "image,label,mask,group,class,split\na.png,0,,p1,eye,train\nb.png,0,,p2,eye,val\nc.png,1,m.png,p3,eye,test\n"
    (data / "table.csv").write_text(rows)
    datalist, _ = run()
    assert datalist["layout"] == "csv"
    assert datalist["training"] == [{"image": "a.png", "label": 0, "group": "p1", "class": "eye"}]
    assert datalist["validation"] == [{"image": "b.png", "label": 0, "group": "p2", "class": "eye"}]
    assert datalist["test"] == [{"image": "c.png", "label": 1, "mask": "m.png", "group": "p3", "class": "eye"}]
    elsewhere = tmp_path / "elsewhere.csv"
    elsewhere.write_text("image,label\na.png,0\nb.png,0\nc.png,0\nd.png,1\n")
    assert counts(run("--csv", elsewhere, "--force")[0]) == {"training": (2, 0), "validation": (0, 0), "test": (1, 1)}
    with pytest.raises(ValueError, match="--csv is a layout of its own"):
        run("--csv", elsewhere, "--layout", "mvtec", "--force")


def test_duplicates_share_a_group_and_are_told(draw, run, capsys):
    draw("no/copy1.png", "no/copy2.png", "no/copy3.bmp", value=200)
    draw("no/deep.tif", value=200, dtype=np.uint16)  # the same values in another depth are another image
    draw(*(f"no/{i}.png" for i in range(6)), "yes/1.png")
    datalist, _ = run()
    groups = {item["image"]: item["group"] for split in ("training", "test") for item in datalist[split]}
    assert groups["no/copy1.png"] == groups["no/copy2.png"] == groups["no/copy3.bmp"] != groups["no/deep.tif"]
    assert datalist["n_duplicates"] == 2
    told = capsys.readouterr()
    assert "no/copy1.png = no/copy2.png = no/copy3.bmp" in told.out
    assert "uint16 and uint8 are mixed" in told.err


def test_duplicate_across_the_data_sets_own_split_leaves_training(draw, run, capsys):
    draw("train/good/1.png", "train/good/2.png", "test/good/1.png", "test/crack/1.png")
    draw("train/good/copy.png", "test/crack/copy.png", value=99)
    datalist, _ = run()
    assert counts(datalist) == {"training": (2, 0), "validation": (0, 0), "test": (1, 2)}
    told = capsys.readouterr()
    assert "training: train/good/copy.png" in told.out
    assert "train/good/copy.png (normal) and test/crack/copy.png (anomaly) are the same image" in told.err


def test_unreadable_files_are_left_out_by_name(data, draw, run, capsys):
    draw("no/1.png", "no/2.png", "yes/1.png")
    (data / "no/broken.png").write_bytes(b"")
    (data / "yes/text.jpg").write_text("not found")
    datalist, _ = run()
    assert sorted(datalist["unreadable"]) == ["no/broken.png", "yes/text.jpg"]
    assert counts(datalist) == {"training": (1, 0), "validation": (0, 0), "test": (1, 1)}
    told = capsys.readouterr().out
    assert "broken.png: is empty" in told
    assert "text.jpg: cannot be read" in told


def test_no_readable_image_is_an_error(data, run):
    for name in ("yes", "no"):
        (data / name).mkdir()
        (data / name / "1.png").write_bytes(b"")
    with pytest.raises(ValueError, match="no image can be used: .*1.png: is empty"):
        run()


def test_mask_of_another_size_names_both(draw, run):
    draw("train/good/1.png", "test/good/1.png", "test/crack/1.png")
    draw("ground_truth/crack/1.png", shape=(4, 8))
    with pytest.raises(ValueError, match=r"ground_truth/crack/1.png: is 4x8, but its image .*test/crack/1.png is 8x8"):
        run()


def test_intensity_range_is_that_of_training(draw, run, capsys):
    for name, value in (("train/good/1.png", 1000), ("train/good/2.png", 3071), ("test/good/1.png", 0)):
        draw(name, value=value, dtype=np.uint16)
    draw("test/crack/1.png", value=60000, dtype=np.uint16)
    assert run()[0]["intensity_range"] == [1000, 3071]
    assert '--intensity#intensity_range "[1000, 3071]"\n' in capsys.readouterr().out


def test_uint8_has_the_whole_range(draw, run):
    draw("no/1.png", "no/2.png", "yes/1.png", shape=(5, 7, 3))
    assert run()[0]["intensity_range"] == [0, 255]


def test_one_class_in_test_is_a_warning(draw, run, capsys):
    draw("train/good/1.png", "test/good/1.png")
    run()
    assert "warning: test has no anomalies: metrics cannot be computed" in capsys.readouterr().err
    draw("test/crack/1.png")
    run("--force")
    assert "warning" not in capsys.readouterr().err


def test_data_only_to_test_on(data, draw, run, capsys):
    draw("a.png", "b.png", dtype=np.uint16)
    (data / "t.csv").write_text("image,label,split\na.png,0,test\nb.png,1,test\n")
    assert run()[0]["intensity_range"] is None
    assert "training has no images" in capsys.readouterr().err


def test_own_split_is_not_drawn_anew(draw, run):
    draw("train/good/1.png", "test/good/1.png", "test/crack/1.png")
    with pytest.raises(ValueError, match="has its own split"):
        run("--train-count", 1)


def test_nothing_is_overwritten_unless_forced(draw, run):
    draw("no/1.png", "no/2.png", "yes/1.png")
    _, out = run()
    with pytest.raises(FileExistsError, match=r"datalist.json: exists.*--force"):
        run()
    out.unlink()
    with pytest.raises(FileExistsError, match=r"datalist.png: exists"):
        run()
    run("--force")
    assert sorted(path.name for path in out.parent.iterdir()) == ["datalist.json", "datalist.png"]


def test_summary_counts(draw, run, capsys):
    draw("train/good/1.png", "train/good/2.png")
    draw("test/good/1.png", "test/crack/1.png", "ground_truth/crack/1.png", shape=(9, 12))
    run()
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["training", "normal", "data", "2", "2", "0", "8x8", "uint8", "0..1"] in lines
    assert ["test", "anomaly", "data", "1", "1", "1", "9x12", "uint8", "0..3"] in lines


@pytest.mark.parametrize("option", [("--train-fraction", "1.5"), ("--train-count", "0"), ("--layout", "cats")])
def test_options_out_of_range(run, option, capsys):
    with pytest.raises(SystemExit):
        run(*option)
    assert option[0] in capsys.readouterr().err
