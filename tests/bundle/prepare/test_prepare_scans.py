import argparse
import gzip
import json
import os
import stat

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from bundle import prepare
from bundle.phantom.dicom import write_series
from bundle.phantom.volumes import write_phantom_volumes
from scripts.data.datalist import load_items
from scripts.dicom.privacy import group_of

AFFINE = np.diag([-2.0, -2.0, 5.0, 1.0])
SHAPE = (8, 10, 6)


@pytest.fixture(autouse=True)
def no_salt(monkeypatch):
    monkeypatch.delenv("MEDICAL_ANOMALY_SALT", raising=False)


@pytest.fixture
def data(tmp_path):
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


@pytest.fixture
def run(data, tmp_path):
    def call(*options, out=tmp_path / "lists/datalist.json"):
        parser = argparse.ArgumentParser()
        prepare.configure(parser)
        assert prepare.run(parser.parse_args([str(data), "--out", str(out), *map(str, options)])) == 0
        return json.loads(out.read_text()), out

    return call


def volume(seed, shape=SHAPE):
    return np.random.default_rng(seed).integers(0, 1000, shape).astype(np.int16)


def lesion(shape=SHAPE):
    mask = np.zeros(shape, np.uint8)
    mask[2:5, 3:6, 2] = 1
    return mask


def save(path, array, affine=AFFINE):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine), path)


@pytest.fixture
def patients(data):
    """Patients p1 to p4 who all have lesions."""
    for number in range(1, 5):
        save(data / f"p{number}/flair.nii.gz", volume(number))
        save(data / f"p{number}/lesion.nii.gz", lesion())


def groups(datalist):
    return {split: [item["group"] for item in datalist[split]] for split in ("training", "validation", "test")}


def test_phantom_volumes(data, run, capsys):
    write_phantom_volumes(data, normal=4, anomalous=2, shape=(32, 40, 8), dicom=1)
    datalist, out = run("--modality", "CT", "--seed", 3)
    assert {split: len(found) for split, found in groups(datalist).items()} == {
        "training": 3,
        "validation": 0,
        "test": 3,
    }
    assert {item["label"] for item in datalist["training"]} == {0}
    assert (datalist["layout"], datalist["intensity_range"], datalist["unreadable"]) == ("nifti", None, [])
    anomalous = [item for item in load_items(out, "test") if item["label"] == 1]
    assert [item["group"] for item in anomalous] == ["sub-05", "sub-06"]
    assert all(item["mask"].endswith("lesion.nii.gz") for item in anomalous)
    told = capsys.readouterr()
    lines = [line.split() for line in told.out.splitlines()]
    # The sizes stand from right to left, back to front and upwards, however a scan is stored.
    row = next(line for line in lines if line[:2] == ["training", "normal"])
    assert row[2:9] == ["-", "3", "3", "0", "24", "32x40x8", "2x2x5"]
    assert "add the overlay configs/data/ct.json" in told.out
    assert "left out" not in told.out
    assert out.with_suffix(".png").stat().st_size > 1000


def test_two_named_patients_train_and_the_third_is_tested(patients, run, capsys):
    options = ("--test-patients", "p3", "--abnormal-training")
    datalist, _ = run(*options, 2)
    assert groups(datalist)["test"] == ["p3"]
    assert len(groups(datalist)["training"]) == 2
    assert datalist["abnormal_subjects"] is True
    told = capsys.readouterr()
    assert "2 patients with anomalies are trained on" in told.out
    assert "--slices#abnormal_subjects True" in told.out
    assert "Not used: 1 scans of abnormal patients" in told.out
    assert "warning" not in told.err  # slices of the masked scan are ranked, so normals are not missing
    assert run(*options, 2, "--force")[0]["training"] == datalist["training"]
    everyone, out = run(*options, "1.0", "--validation-fraction", 0.34, "--force")
    assert sorted(groups(everyone)["training"] + groups(everyone)["validation"]) == ["p1", "p2", "p4"]
    assert len(groups(everyone)["validation"]) == 1
    assert len(load_items(out, "validation")) == 1
    capsys.readouterr()
    assert "abnormal_subjects" not in run("--force")[0]
    assert "training has no scans" in (told := capsys.readouterr().err)
    assert "see --abnormal-training" in told
    with pytest.raises(ValueError, match="Only 3 patients with anomalies, all masked, are free to train on, 4 were"):
        run(*options, 4, "--force")
    with pytest.raises(ValueError, match="there is no patient 'p9'. There are: p1, p2, p3, p4"):
        run("--test-patients", "p9", "--force")


def test_named_patients_leave_all_other_normals_to_training(data, run):
    for seed, name in enumerate(("normal/a", "normal/b", "normal/c", "abnormal/d", "abnormal/e")):
        save(data / name / "t1.nii", volume(seed))
    assert groups(run("--test-patients", "c", "d")[0]) == {"training": ["a", "b"], "validation": [], "test": ["d", "c"]}


def test_bad_files_are_listed_and_the_others_used(data, patients, run, capsys):
    save(data / "p5 four/flair.nii.gz", np.zeros((4, 4, 2, 3), np.int16))
    save(data / "p6/flair.nii", np.full(SHAPE, 7, np.int16))
    save(data / "Grüße/flair ü.nii.gz", volume(7))
    save(data / "Grüße/mask.nii.gz", lesion())
    save(data / "p8/flair.nii.gz", volume(8))
    save(data / "p8/mask.nii.gz", lesion((8, 10, 5)))
    (data / "p9").mkdir()
    (data / "p9/empty.nii.gz").write_bytes(b"")
    whole = (data / "p1/flair.nii.gz").read_bytes()
    (data / "p9/cut.nii.gz").write_bytes(whole[: len(whole) // 2])
    (data / "p9/text.nii.gz").write_bytes(gzip.compress(b"not a scan"))
    (data / "p9/._cut.nii.gz").write_bytes(b"")
    (data / "p9/gone.nii").symlink_to(data / "nowhere.nii")
    datalist, _ = run("--label-without-mask", 0)
    assert sorted(datalist["unreadable"]) == [
        "p5 four/flair.nii.gz",
        "p6/flair.nii",
        "p8/flair.nii.gz",
        "p9/cut.nii.gz",
        "p9/empty.nii.gz",
        "p9/gone.nii",
        "p9/text.nii.gz",
    ]
    assert {"Grüße", "p1"} <= set(groups(datalist)["test"])
    told = capsys.readouterr().out
    for reason in (
        "p5 four/flair.nii.gz: has the shape (4, 4, 2, 3)",
        "p6/flair.nii: is empty, as every voxel is 7",
        "p8/mask.nii.gz: is not on the grid of",
        "p9/empty.nii.gz: is empty (0 bytes)",
        "p9/gone.nii: No such file",
    ):
        assert reason in told
    assert told.splitlines()[-1] == "7 files or series were left out; see the reasons above."


def test_nothing_usable_is_an_error(data, run):
    (data / "normal").mkdir()
    (data / "normal/a.nii").write_bytes(b"")
    with pytest.raises(ValueError, match=r"no scan can be used: .*a.nii: is empty"):
        run()


def test_copies_share_a_group_whether_compressed_or_not(data, run, capsys):
    for number in range(6):
        save(data / f"normal/p{number}/t1.nii.gz", volume(number))
    save(data / "normal/p6/t1.nii", volume(2).astype(np.float64))
    datalist, _ = run("--train-count", 5)
    group_of_image = {item["image"]: item["group"] for split in ("training", "test") for item in datalist[split]}
    assert group_of_image["normal/p6/t1.nii"] == group_of_image["normal/p2/t1.nii.gz"] == "p2"
    assert datalist["n_duplicates"] == 1
    assert "normal/p2/t1.nii.gz = normal/p6/t1.nii" in capsys.readouterr().out


def test_table_of_scans_and_a_mixture(data, run):
    save(data / "a.nii.gz", volume(1))
    save(data / "b.nii.gz", volume(2))
    save(data / "m.nii.gz", lesion())
    rows = "image,label,mask,group,split\na.nii.gz,0,,p1,train\nb.nii.gz,1,m.nii.gz,p2,test\n"
    (data / "t.csv").write_text(rows)
    datalist, _ = run()
    assert datalist["layout"] == "csv"
    assert datalist["test"] == [{"image": "b.nii.gz", "label": 1, "mask": "m.nii.gz", "group": "p2"}]
    (data / "t.csv").write_text(rows.replace("b.nii.gz,1", "b.nii.gz,0"))
    assert run("--force")[0]["unreadable"] == ["b.nii.gz"]
    Image.fromarray(np.eye(8, dtype=np.uint8)).save(data / "c.png")
    (data / "t.csv").write_text(rows + "c.png,0,,p3,train\n")
    with pytest.raises(ValueError, match="b.nii.gz is a scan and .*c.png an image"):
        run("--force")


def test_options_that_do_not_suit_the_data(data, patients, run, tmp_path):
    with pytest.raises(ValueError, match="--normal is for dicom, and .* is read as nifti"):
        run("--normal")
    for split in ("train", "test"):
        save(data / f"{split}/normal/x.nii", volume(9))
    with pytest.raises(ValueError, match="has its own split. Leave out --test-patients and --abnormal-training"):
        run("--image-pattern", "t*", "--test-patients", "test/normal/x.nii", "--abnormal-training", 1)


# DICOM

PATIENT = "Mustermann"


@pytest.fixture
def studies(data):
    """Patients A, B and C of ``PATIENT``, with one CT each; C also has a localiser and an MR."""
    for number, name in enumerate("ABC"):
        write_series(data / PATIENT / name, volume(number), AFFINE, patient=PATIENT + name)
    write_series(data / "x", volume(5), AFFINE, patient=PATIENT + "C", series=1, description="Topogram")
    write_series(data / "x", volume(6), AFFINE, patient=PATIENT + "C", series=2, modality="MR")
    (data / "x/0.dcm").write_bytes(b"")
    (data / "x/._0.dcm").write_bytes(b"")


def test_dicom_series_become_scans_without_names(studies, data, run, capfd, tmp_path):
    data = data.rename(data.with_name(f"{PATIENT}s"))
    data.with_name("data").symlink_to(data)
    datalist, out = run("--normal", "--dicom-modality", "CT", "--train-count", 2)
    assert (datalist["layout"], datalist["name"], datalist["modality"]) == ("dicom", "datalist", "CT")
    assert datalist["dataset_dir"] == "scans"
    salt = (out.parent / "salt.txt").read_text().strip()
    assert stat.S_IMODE((out.parent / "salt.txt").stat().st_mode) == 0o600
    items = load_items(out, "training") + load_items(out, "test")
    by_group = {item["group"]: item["image"] for item in items}
    assert set(by_group) == {group_of(f"ID-{PATIENT}{name}", salt) for name in "ABC"}
    scan = nib.load(by_group[group_of(f"ID-{PATIENT}B", salt)])
    assert np.array_equal(scan.get_fdata(), volume(1))
    assert np.allclose(scan.affine, AFFINE)
    assert sorted(datalist["left_out"].values()) == [
        "a localiser or screen save",
        "cannot be read as DICOM: prepare said why on the terminal",
        "modality MR",
    ]
    assert salt not in out.read_text()
    for secret in (PATIENT, "1950", str(tmp_path)):
        assert not any(secret.encode() in path.read_bytes() for path in out.parent.rglob("*.png"))
        assert secret not in out.read_text()
        assert not any(secret.encode() in path.read_bytes() for path in (out.parent / "scans").iterdir())
    told = capfd.readouterr()
    assert f"ID-{PATIENT}" not in told.out + told.err
    assert f"^{PATIENT}" not in told.out + told.err
    assert f"Converted 3 series to uncompressed NIfTI: 0.0 MiB in {out.parent}/scans." in told.out
    assert "a new salt, saved in" in told.out
    assert "configs/data/ct.json" in told.out
    assert told.out.splitlines()[-1] == "3 files or series were left out; see the reasons above."


def test_salt_is_kept_or_given(studies, run, capsys, monkeypatch):
    options = ("--normal", "--description", "phantom", "--force")
    first, out = run(*options)
    assert run(*options)[0]["test"] == first["test"]
    assert "the salt in" in capsys.readouterr().out
    given, _ = run(*options, "--salt", "pepper")
    assert {item["group"] for split in ("training", "test") for item in given[split]} == {
        group_of(f"ID-{PATIENT}{name}", "pepper") for name in "ABC"
    }
    assert given["modality"] == "CT+MR"
    assert "pepper" not in out.read_text()
    monkeypatch.setenv("MEDICAL_ANOMALY_SALT", "pepper")
    assert groups(run(*options)[0]) == groups(given)
    monkeypatch.setenv("MEDICAL_ANOMALY_SALT", "")
    with pytest.raises(ValueError, match="It is empty"):
        run(*options)


def test_labels_of_dicom(studies, data, run, tmp_path, capsys):
    rules = ("--dicom-modality", "CT", "--orientation", "axial")
    with pytest.raises(ValueError, match=r"Give --normal .* or --labels TABLE.*key,label\[,mask\]"):
        run()
    save(tmp_path / PATIENT / "C.nii.gz", lesion())
    table = tmp_path / "labels.csv"
    table.write_text(f"key,label,mask\nID-{PATIENT}A,0,\nID-{PATIENT}C,1,{PATIENT}/C.nii.gz\n")
    datalist, out = run("--labels", table, *rules)
    test = load_items(out, "test")
    assert [item["label"] for item in test] == [0, 1]
    assert np.array_equal(nib.load(test[1]["mask"]).get_fdata(), lesion())
    assert "not in the table of labels" in datalist["left_out"].values()
    assert PATIENT not in out.read_text()
    named, _ = run("--labels", table, *rules, "--test-patients", f"ID-{PATIENT}C", "--force")
    assert [item["group"] for item in named["test"]] == [test[1]["group"]]
    assert PATIENT not in out.read_text()
    again, _ = run("--labels", table, *rules, "--test-patients", test[1]["group"], "--force")
    assert again["test"] == named["test"]
    capsys.readouterr()

    save(tmp_path / PATIENT / "C.nii.gz", lesion((8, 10, 5)))
    datalist, _ = run("--labels", table, *rules, "--force")
    assert "cannot be used as a scan: prepare said why on the terminal" in datalist["left_out"].values()
    with pytest.raises(ValueError, match="there is no patient '[0-9a-f]{16}'") as raised:
        run("--labels", table, *rules, "--test-patients", f"ID-{PATIENT}X", "--force")
    assert PATIENT not in str(raised.value)


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ("id,label\na,1", "needs columns key and label, has id, label"),
        ("key,label\na,2", "line 2 needs a key and a label of 0 or 1"),
        ("key,label\na,1\na,0", "line 3 repeats the key"),
        ("key,label\n", "has no rows"),
    ],
)
def test_wrong_table_of_labels(run, tmp_path, rows, reason):
    (tmp_path / "labels.csv").write_text(rows)
    with pytest.raises(ValueError, match=f"labels.csv: .*{reason}"):
        run("--labels", tmp_path / "labels.csv")


def test_dicom_of_which_nothing_is_left(studies, data, run):
    with pytest.raises(
        ValueError,
        match=r"none of its 5 DICOM series can be used; the first is ct-[0-9a-f]{12}: 6 slices, fewer than 7. Choose",
    ):
        run("--normal", "--min-slices", 7)
    for path in data.rglob("*.dcm"):
        path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"none of its DICOM files can be read; the first: .*is empty"):
        run("--normal")


def test_outputs_beside_the_data_are_not_read_as_data(studies, data, run):
    first, _ = run("--normal", "--dicom-modality", "CT", out=data / "datalist.json")
    again, _ = run("--normal", "--dicom-modality", "CT", "--force", out=data / "datalist.json")
    assert again["layout"] == "dicom"
    assert groups(again) == groups(first)
    assert sorted(os.listdir(data / "scans")) == sorted(
        item["image"] for split in ("training", "test") for item in first[split]
    )
