import os

import nibabel as nib
import numpy as np
import pytest

from bundle.prepare.nifti_tree import NiftiTree


@pytest.fixture
def root(tmp_path):
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


@pytest.fixture
def save(root):
    """Writes empty files named like scans, or masks of zeros with ``lesion`` in one voxel."""

    def write(*names, lesion=None):
        for name in names:
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if lesion is None:
                path.touch()
            else:
                mask = np.zeros((3, 3, 2), np.uint8)
                mask[1, 1, 1] = lesion
                nib.save(nib.Nifti1Image(mask, np.eye(4)), path)

    return write


@pytest.fixture
def read(root, tmp_path):
    def call(**options):
        tree = NiftiTree(tmp_path / "cache", **options)
        samples = tree.read(root)
        return {
            sample.image.relative_to(root).as_posix(): (
                sample.label,
                sample.group,
                None if sample.mask is None else sample.mask.name,
                sample.split,
            )
            for sample in samples
        }, {path.name: reason for path, reason in tree.left_out.items()}

    return call


def test_masks_give_labels_and_lie_beside_their_scans(save, read):
    save("p1/flair.nii.gz", "p2/a/flair.nii", "deep/er/sub-07/anat/sub-07_T1w.nii.gz")
    save("p1/lesion.nii.gz", "deep/er/sub-07/anat/sub-07_T1w_Mask.nii.gz", lesion=1)
    save("p2/a/flair_seg.nii", lesion=0)
    assert read() == (
        {
            "p1/flair.nii.gz": (1, "p1", "lesion.nii.gz", None),
            "p2/a/flair.nii": (0, "p2", "flair_seg.nii", None),
            "deep/er/sub-07/anat/sub-07_T1w.nii.gz": (1, "sub-07", "sub-07_T1w_Mask.nii.gz", None),
        },
        {},
    )


def test_many_scans_of_a_folder_have_masks_of_their_own(save, read):
    save("abnormal/a_1.nii", "abnormal/a_2.nii", "normal/b segment.nii", "0_normal/Ünmasked.nii.gz")
    save("abnormal/a_1_label.nii", "abnormal/mask_a_2.nii.gz", lesion=2)
    assert read()[0] == {
        "abnormal/a_1.nii": (1, "abnormal/a_1.nii", "a_1_label.nii", None),
        "abnormal/a_2.nii": (1, "abnormal/a_2.nii", "mask_a_2.nii.gz", None),
        "normal/b segment.nii": (0, "normal/b segment.nii", None, None),
        "0_normal/Ünmasked.nii.gz": (0, "0_normal/Ünmasked.nii.gz", None, None),
    }


@pytest.mark.parametrize(
    ("folder", "label"),
    [("Healthy", 0), ("controls", 0), ("good", 0), ("normal", 0), ("patients", 1), ("1_abnormal", 1), ("ungood", 1)],
)
def test_class_words_are_labels_and_no_patients(save, read, folder, label):
    save(f"{folder}/p1/t1.nii", f"site/{folder}/x.nii")
    assert read()[0] == {
        f"{folder}/p1/t1.nii": (label, "p1", None, None),
        f"site/{folder}/x.nii": (label, "site", None, None),
    }


def test_own_splits(root, save, read):
    save("train/good/p1/a.nii", "val/good/b.nii", "test/good/sub-1.nii", "test/ungood/p9/c.nii")
    assert read()[0] == {
        "train/good/p1/a.nii": (0, "p1", None, "training"),
        "val/good/b.nii": (0, "val/good/b.nii", None, "validation"),
        "test/good/sub-1.nii": (0, "sub-1", None, "test"),
        "test/ungood/p9/c.nii": (1, "p9", None, "test"),
    }
    save("other/good/d.nii")
    with pytest.raises(ValueError, match=r"other/good/d.nii: lies in none of the folders train, val and test"):
        read()


def test_several_candidates_are_an_error_that_ends_with_an_image_pattern(save, read):
    save("p1/flair.nii.gz", "p1/t1.nii.gz")
    save("p1/lesion.nii.gz", lesion=1)
    with pytest.raises(ValueError, match=r"lesion.nii.gz: may be the mask of flair.nii.gz or of t1.*'\*flair\*'"):
        read()
    assert read(image_pattern="*FLAIR*")[0] == {"p1/flair.nii.gz": (1, "p1", "lesion.nii.gz", None)}
    save("p1/flair_seg.nii.gz", lesion=1)
    with pytest.raises(ValueError, match=r"flair_seg.nii.gz and lesion.nii.gz may both be its mask"):
        read(image_pattern="*flair*")
    assert read(image_pattern="*flair.nii.gz", mask_pattern="^lesion")[0]["p1/flair.nii.gz"][2] == "lesion.nii.gz"


def test_patterns_that_fit_nothing(save, read):
    save("p1/roi_flair.nii", "p1/roi.nii", lesion=1)
    assert read(mask_pattern="^roi$")[0] == {"p1/roi_flair.nii": (1, "p1", "roi.nii", None)}
    with pytest.raises(ValueError, match="none of its 2 NIfTI files is a scan; the first is p1/roi.nii"):
        read(mask_pattern="roi")
    with pytest.raises(ValueError, match=r"--mask-pattern \*_roi: not a regular expression"):
        read(mask_pattern="*_roi")


def test_label_that_nothing_tells(save, read):
    save("p1/a.nii")
    with pytest.raises(ValueError, match=r"p1/a.nii: is it normal\?.*--label-without-mask 0"):
        read()
    assert read(label_without_mask=0)[0]["p1/a.nii"][0] == 0
    assert read(label_without_mask=1)[0]["p1/a.nii"][0] == 1
    save("normal/p2/b.nii")
    save("normal/p2/lesion.nii", lesion=1)
    with pytest.raises(ValueError, match=r"normal/p2/b.nii: lies among the normals, but its mask is not empty"):
        read(label_without_mask=0)


def test_what_is_passed_over_and_left_out(root, save, read, monkeypatch):
    assert read() == ({}, {})
    save(
        "normal/a.nii",
        "normal/._a.nii",
        ".git/b.nii",
        "__MACOSX/c.nii",
        "mine/hash.nii",
        "normal/a.txt",
        "locked/d.nii",
    )
    save("alone/lesion.nii", lesion=1)
    (root / "normal/again").symlink_to(root / "normal")
    scandir = os.scandir

    def refuse(path):  # permissions do not hold back an administrator
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    samples, left_out = read(skip=[root / "mine"])
    assert samples == {"normal/a.nii": (0, "normal/a.nii", None, None)}
    assert left_out == {
        "lesion.nii": "is named like a mask, but no scan lies beside it.",
        "locked": "cannot be listed (Permission denied). Grant permission to read it.",
    }
