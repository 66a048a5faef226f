"""Volumes are read as nibabel reads them, or refused by name."""

import gzip
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from scripts.data import scans
from scripts.data.foreground import foreground_quantiles, foreground_threshold
from scripts.data.scans import Scan, UnreadableScanError, forget_scan, is_scan, open_all, open_scan, save_like

AFFINE = np.array([[0.0, -3, 0.5, 10], [2, 0, 0, -20], [0, 0, 4, 30], [0, 0, 0, 1]])
SHAPE = (5, 6, 7)
ARRAY = np.random.default_rng(0).permutation(210).reshape(SHAPE).astype(np.int16)
LARGER = np.random.default_rng(1).integers(0, 2**15, (16, 17, 18), np.int16)  # which gzip cannot make small

Opens = Callable[..., Scan]


@pytest.fixture
def opened(tmp_path: Path) -> Opens:
    return lambda path, **more: open_scan(path, tmp_path / "cache", **more)


def write(path: Path, array: np.ndarray = ARRAY, kind: type = nib.Nifti1Image, **header: float) -> Path:
    image = kind(array, AFFINE, dtype=array.dtype)
    for field, value in header.items():
        image.header[field] = value
    path.write_bytes(image.to_bytes() if path.suffix == ".nii" else gzip.compress(image.to_bytes()))
    return path


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".NII.GZ"])
@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "i8", "f4", "f8"])
def test_any_real_type_is_read_as_nibabel_reads_it(tmp_path: Path, opened: Opens, dtype: str, suffix: str) -> None:
    array = (ARRAY % 100).astype(dtype) if dtype[0] != "f" else ARRAY.astype(dtype) / 8
    scan = opened(write(tmp_path / f"scan{suffix}", array))
    assert scan.shape == SHAPE
    np.testing.assert_array_equal(scan.affine, AFFINE)
    np.testing.assert_array_equal(scan.array(), array)
    for axis in range(3):
        np.testing.assert_array_equal(scan.slices(axis, [0, 2, 2]), array.take([0, 2, 2], axis))


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_scaled_values_big_endian_and_nifti2(tmp_path: Path, opened: Opens, kind: type, suffix: str) -> None:
    image = kind(ARRAY, AFFINE, kind.header_class(endianness=">"))
    image.header.set_data_dtype(">i2")
    content = bytearray(image.to_bytes())
    where = {offset for _, offset in [image.header.structarr.dtype.fields["scl_slope"][:2]]}.pop()
    size = image.header.structarr.dtype["scl_slope"].itemsize
    content[where : where + 2 * size] = np.array([0.5, -100], f">f{size}").tobytes()
    path = tmp_path / f"scan{suffix}"
    path.write_bytes(content if suffix == ".nii" else gzip.compress(content))
    np.testing.assert_array_equal(nib.load(path).get_fdata(), ARRAY / 2 - 100)
    scan = opened(path)
    np.testing.assert_array_equal(scan.array(), ARRAY / 2 - 100)
    np.testing.assert_array_equal(scan.slices(0, [3]), ARRAY[3:4] / 2 - 100)
    np.testing.assert_allclose(scan.affine, AFFINE)


def test_statistics_are_those_of_the_whole_scan(tmp_path: Path, opened: Opens) -> None:
    array = np.zeros((8, 9, 10), np.float32)
    array[2:5, 3:9, 1] = np.arange(18).reshape(3, 6) + 100
    scan = opened(write(tmp_path / "scan.nii.gz", array))
    inside = array > foreground_threshold(array)
    assert scan.foreground == [inside.sum((1, 2)).tolist(), inside.sum((0, 2)).tolist(), inside.sum((0, 1)).tolist()]
    assert scan.box == [[2, 5], [3, 9], [1, 2]]
    np.testing.assert_array_equal(scan.quantiles, foreground_quantiles(array))


def test_foreground_of_a_mask_is_what_is_not_zero(tmp_path: Path, opened: Opens) -> None:
    array = np.zeros(SHAPE, np.uint8)
    empty = opened(write(tmp_path / "empty.nii", array), mask=True)
    assert empty.box == [[0, 5], [0, 6], [0, 7]]
    assert sum(empty.foreground[2]) == 0
    array[1, 2, 3] = 1
    array[4, 2, 3] = 200
    mask = opened(write(tmp_path / "mask.nii", array), mask=True)
    assert mask.box == [[1, 5], [2, 3], [3, 4]]
    assert mask.foreground[0] == [0, 1, 0, 0, 1]
    assert opened(write(tmp_path / "full.nii", array | 1), mask=True).foreground[0] == [42] * 5


def test_an_uncompressed_scan_is_read_where_it_is(tmp_path: Path, opened: Opens) -> None:
    path = write(tmp_path / "scan.nii")
    assert opened(path).path == str(path)
    assert [file.suffix for file in (tmp_path / "cache").iterdir()] == [".json"]


@pytest.mark.parametrize("name", ["with space.nii", "Ärztin 患者.nii.gz", "100%{x}[1].nii.gz"])
def test_any_file_name(tmp_path: Path, opened: Opens, name: str) -> None:
    np.testing.assert_array_equal(opened(write(tmp_path / name)).array(), ARRAY)


def test_a_scan_can_be_forgotten(tmp_path: Path, opened: Opens) -> None:
    kept = opened(write(tmp_path / "kept.nii.gz"))
    forgotten = opened(write(tmp_path / "forgotten.nii.gz"))
    opened(tmp_path / "forgotten.nii.gz", mask=True)
    assert len(list((tmp_path / "cache").iterdir())) == 6
    forget_scan(tmp_path / "forgotten.nii.gz", tmp_path / "cache")
    assert sorted((tmp_path / "cache").iterdir()) == [Path(kept.path).with_suffix(".json"), Path(kept.path)]
    assert not Path(forgotten.path).exists()
    np.testing.assert_array_equal(opened(tmp_path / "forgotten.nii.gz").array(), ARRAY)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_changed_file_is_read_anew(tmp_path: Path, opened: Opens, suffix: str) -> None:
    path = write(tmp_path / f"scan{suffix}")
    assert opened(path).array()[0, 0, 0] == ARRAY[0, 0, 0]
    write(path, ARRAY[:, ::-1, :4])
    scan = opened(path)
    np.testing.assert_array_equal(scan.array(), ARRAY[:, ::-1, :4])
    np.testing.assert_array_equal(scan.slices(2, [1]), ARRAY[:, ::-1, 1:2])
    write(path, ARRAY[:, ::-1, 3:])
    os.utime(path, ns=(0, 12345))  # of the same size, at another time
    np.testing.assert_array_equal(opened(path).array(), ARRAY[:, ::-1, 3:])
    np.testing.assert_array_equal(opened(path).quantiles, foreground_quantiles(ARRAY[:, ::-1, 3:]))
    size, content = path.stat().st_size, path.read_bytes()
    path.write_bytes(content[:-1] if suffix == ".nii" else content[:-9])
    os.utime(path, ns=(0, 12345))  # of another size, at the same time
    assert path.stat().st_size < size
    with pytest.raises(UnreadableScanError):
        opened(path)


def test_the_second_time_nothing_is_made_again(tmp_path: Path, opened: Opens, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "scan.nii.gz")
    first = opened(path)
    monkeypatch.setattr(scans, "_convert", None)
    second = opened(str(path))
    assert {**vars(first), "affine": None} == {**vars(second), "affine": None}
    np.testing.assert_array_equal(first.affine, second.affine)


@pytest.mark.parametrize("content", ["", "[]", "null", "{}", '{"path": null}', '{"path": "/nowhere.nii"', "\x00\xff"])
def test_a_damaged_record_is_made_again(tmp_path: Path, opened: Opens, content: str) -> None:
    path = write(tmp_path / "scan.nii.gz")
    opened(path)
    (record,) = (tmp_path / "cache").glob("*.json")
    record.write_text(content)
    np.testing.assert_array_equal(opened(path).array(), ARRAY)
    assert json.loads(record.read_text())["shape"] == list(SHAPE)


def test_what_was_deleted_from_the_cache_is_made_again(tmp_path: Path, opened: Opens) -> None:
    path = write(tmp_path / "scan.nii.gz")
    Path(opened(path).path).unlink()
    np.testing.assert_array_equal(opened(path).array(), ARRAY)


def test_a_run_killed_half_way_leaves_nothing_that_is_taken_for_whole(
    tmp_path: Path, opened: Opens, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "scan.nii.gz")
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / ".part-old.nii").write_bytes(b"half")

    def killed(image: nib.Nifti1Image, part: Path) -> None:
        part.write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(nib, "save", killed)
        opened(path)
    assert [file.name for file in (tmp_path / "cache").iterdir()] == [".part-old.nii"]
    np.testing.assert_array_equal(opened(path).array(), ARRAY)


def test_a_cache_that_cannot_be_written_is_said_with_the_remedy(tmp_path: Path) -> None:
    path = write(tmp_path / "scan.nii")
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(OSError, match=r"scan\.nii: cannot be kept in .*cache .*cache_dir"):
        open_scan(path, tmp_path / "cache")


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("empty.nii", b"", r"0 bytes"),
        ("empty.nii.gz", b"", r"0 bytes"),
        ("text.nii", b"no scan" * 100, r"not a NIfTI volume"),
        ("text.nii.gz", b"no scan" * 100, r"not a NIfTI volume"),
        ("scan.nrrd", b"NRRD0004", r"does not end in \.nii or \.nii\.gz"),
    ],
)
def test_what_is_no_nifti_is_refused(tmp_path: Path, opened: Opens, name: str, content: bytes, reason: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UnreadableScanError, match=rf"{name}: .*{reason}"):
        opened(path)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("part", [0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused(tmp_path: Path, opened: Opens, suffix: str, part: float) -> None:
    path = write(tmp_path / f"scan{suffix}", LARGER)
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    with pytest.raises(UnreadableScanError, match=rf"scan{suffix}: .*(Fetch it again|Convert it)"):
        opened(path)
    assert not list((tmp_path / "cache").glob("*"))


@pytest.mark.parametrize("where", [-3, -6, -60, 3000])
def test_a_flipped_byte_in_a_compressed_file_is_noticed_by_its_checksum(
    tmp_path: Path, opened: Opens, where: int
) -> None:
    path = write(tmp_path / "scan.nii.gz", LARGER)
    content = bytearray(path.read_bytes())
    content[where] ^= 16
    path.write_bytes(content)
    with pytest.raises(UnreadableScanError, match=r"scan\.nii\.gz: .*damaged"):
        opened(path)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("lengths", [(32767, 32767, 32767), (1, -5, 3), (0, 5, 5)])
def test_absurd_sizes_are_refused(tmp_path: Path, opened: Opens, lengths: tuple[int, ...], suffix: str) -> None:
    content = bytearray(write(tmp_path / "good.nii").read_bytes())
    content[42:48] = np.array(lengths, "<i2").tobytes()
    path = tmp_path / f"scan{suffix}"
    path.write_bytes(content if suffix == ".nii" else gzip.compress(content))
    with pytest.raises(UnreadableScanError, match=r"scan\.nii"):
        opened(path)


def test_a_missing_file_is_named(tmp_path: Path, opened: Opens) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent\.nii"):
        opened(tmp_path / "absent.nii")


def test_a_folder_is_refused(tmp_path: Path, opened: Opens) -> None:
    (tmp_path / "folder.nii").mkdir()
    with pytest.raises(UnreadableScanError, match=r"folder\.nii"):
        opened(tmp_path / "folder.nii")


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_values_that_are_not_finite_become_the_smallest_with_a_warning(
    tmp_path: Path, opened: Opens, caplog: pytest.LogCaptureFixture, suffix: str
) -> None:
    array = ARRAY.astype(np.float32) + 5
    array[0, 0, :3] = np.nan, np.inf, -np.inf
    path = write(tmp_path / f"scan{suffix}", array)
    expected = np.where(np.isfinite(array), array, array[np.isfinite(array)].min())
    scan = opened(path)
    np.testing.assert_array_equal(scan.array(), expected)
    np.testing.assert_array_equal(scan.slices(0, [0]), expected[:1])
    assert f"{path}: 3 voxels are NaN or infinite" in caplog.text


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.full(SHAPE, np.nan, np.float32), "no finite value"),
        (np.full(SHAPE, 7, np.int16), "every voxel is 7"),
        (ARRAY.astype(np.complex64), "complex64"),
        (np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")]), "not one real number"),
        (np.stack([ARRAY] * 2, -1), r"shape \(5, 6, 7, 2\).*Split"),
        (ARRAY[:, 0, 0], r"shape \(5,\)"),
    ],
)
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_what_is_not_one_volume_of_real_numbers_is_refused(
    tmp_path: Path, opened: Opens, array: np.ndarray, reason: str, suffix: str
) -> None:
    with pytest.raises(UnreadableScanError, match=rf"scan{suffix}: .*{reason}"):
        opened(write(tmp_path / f"scan{suffix}", array))


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("shape", [(5, 6, 7, 1), (5, 6, 7, 1, 1), (5, 6), (5, 6, 1), (1, 6, 7)])
def test_axes_of_length_one_do_no_harm(tmp_path: Path, opened: Opens, shape: tuple[int, ...], suffix: str) -> None:
    array = ARRAY.flat[: np.prod(shape)].reshape(shape)
    path = write(tmp_path / f"scan{suffix}", array)
    scan = opened(path)
    expected = array.reshape((*shape, 1)[:3])
    assert scan.shape == expected.shape
    np.testing.assert_array_equal(scan.affine, AFFINE)
    np.testing.assert_array_equal(scan.array(), expected)
    np.testing.assert_array_equal(scan.slices(1, [2]), expected[:, 2:3])
    save_like(path, expected.astype(np.float32), tmp_path / "out.nii.gz")
    np.testing.assert_allclose(nib.load(tmp_path / "out.nii.gz").affine, AFFINE)


def test_a_scan_without_voxel_size_is_refused(tmp_path: Path, opened: Opens) -> None:
    image = nib.Nifti1Image(ARRAY, None)
    image.header.set_sform(np.diag([1.0, 1, 0, 1]), 1)
    cases = {"sform.nii": image.to_bytes()}
    image.header["srow_x"] = np.nan
    cases["nan.nii"] = image.to_bytes()
    for code in (0, 1):
        image = nib.Nifti1Image(ARRAY, None)
        image.header["qform_code"] = code
        image.header["pixdim"][2] = 0
        cases[f"pixdim{code}.nii"] = image.to_bytes()
    for name, content in cases.items():
        for path in (tmp_path / name, tmp_path / f"{name}.gz"):
            path.write_bytes(content if path.suffix == ".nii" else gzip.compress(content))
            with pytest.raises(UnreadableScanError, match=rf"{name}.*no voxel size.*pixdim"):
                opened(path)


def test_pixdim_does_not_matter_where_an_sform_is(tmp_path: Path, opened: Opens) -> None:
    content = bytearray(write(tmp_path / "scan.nii").read_bytes())
    content[80:92] = bytes(12)
    (tmp_path / "scan.nii").write_bytes(content)
    np.testing.assert_array_equal(opened(tmp_path / "scan.nii").affine, AFFINE)


def test_voxels_of_a_micrometre_have_a_size(tmp_path: Path, opened: Opens) -> None:
    nib.save(nib.Nifti1Image(ARRAY, np.diag([1e-4, 1e-4, 1e-4, 1])), tmp_path / "scan.nii")
    assert opened(tmp_path / "scan.nii").shape == SHAPE


def test_a_scan_without_orientation_is_read_with_a_warning(
    tmp_path: Path, opened: Opens, caplog: pytest.LogCaptureFixture
) -> None:
    image = nib.Nifti1Image(ARRAY, None)
    image.header.set_zooms((2, 3, 4))
    nib.save(image, tmp_path / "scan.nii.gz")
    with caplog.at_level(logging.WARNING):
        scan = opened(tmp_path / "scan.nii.gz")
    assert f"{tmp_path / 'scan.nii.gz'}: has no orientation" in caplog.text
    np.testing.assert_array_equal(scan.affine, nib.load(tmp_path / "scan.nii.gz").affine)
    np.testing.assert_array_equal(nib.load(scan.path).affine, scan.affine)


ROTATION = nib.quaternions.quat2mat([np.sqrt(1 - 0.14), 0.1, 0.2, 0.3])
QFORM = nib.affines.from_matvec(ROTATION @ np.diag([2.0, 3, 4]), [7, 8, 9])


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize(("sform", "qform"), [(0, 0), (0, 1), (2, 0), (1, 1), (4, 1), (2, 3)])
def test_what_is_written_lies_where_its_source_lies(
    tmp_path: Path, opened: Opens, sform: int, qform: int, kind: type
) -> None:
    source = kind(ARRAY, None)
    source.header.set_zooms((2, 3, 4))
    source.set_qform(QFORM, qform)
    source.set_sform(AFFINE if sform else None, sform)
    source.header["descrip"] = b"name of the patient"
    nib.save(source, tmp_path / "scan.nii.gz")
    source = nib.load(tmp_path / "scan.nii.gz")
    save_like(tmp_path / "scan.nii.gz", ARRAY.astype(np.float32) / 3, tmp_path / "new" / "map.nii.gz")
    for result in (nib.load(tmp_path / "new" / "map.nii.gz"), nib.load(opened(tmp_path / "scan.nii.gz").path)):
        assert (int(result.header["sform_code"]), int(result.header["qform_code"])) == (sform, qform)
        np.testing.assert_allclose(result.affine, source.affine, atol=1e-6)
        np.testing.assert_allclose(result.get_qform(), source.get_qform(), atol=1e-6)
        np.testing.assert_allclose(result.header.get_zooms(), source.header.get_zooms())
        assert result.shape == SHAPE
        assert not result.header["descrip"].item()
    result = nib.load(tmp_path / "new" / "map.nii.gz")
    assert result.get_data_dtype() == np.float32
    np.testing.assert_array_equal(result.get_fdata(dtype=np.float32), ARRAY.astype(np.float32) / 3)


def test_a_broken_qform_does_not_matter_where_an_sform_is(tmp_path: Path, opened: Opens) -> None:
    path = write(tmp_path / "scan.nii.gz", qform_code=1, quatern_b=1, quatern_c=1, quatern_d=1)
    np.testing.assert_array_equal(nib.load(opened(path).path).affine, AFFINE)
    save_like(path, ARRAY, tmp_path / "out.nii")
    np.testing.assert_array_equal(nib.load(tmp_path / "out.nii").affine, AFFINE)


def test_a_failed_write_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "scan.nii")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "map.nii.gz").write_text("old")

    def full(image: nib.Nifti1Image, part: Path) -> None:
        part.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(nib, "save", full)
    with pytest.raises(OSError, match="No space"):
        save_like(path, ARRAY, tmp_path / "out" / "map.nii.gz")
    assert [file.read_text() for file in (tmp_path / "out").iterdir()] == ["old"]


def test_one_bad_file_does_not_stop_the_others(tmp_path: Path, opened: Opens) -> None:
    good, bad = str(write(tmp_path / "good.nii")), str(tmp_path / "bad.nii")
    Path(bad).touch()
    absent = str(tmp_path / "absent.nii")
    scans_, reasons = open_all([good, bad, absent], opened)
    assert list(scans_) == [good]
    assert list(reasons) == [bad, absent]
    assert all(path in reason for path, reason in reasons.items())


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a.nii", True), ("a.b.NII.gz", True), ("a.img", False), ("nii", False), ("a.nii.png", False)],
)
def test_scans_are_known_by_their_names(name: str, expected: bool) -> None:
    assert is_scan(name) is expected
    assert is_scan(Path(name)) is expected


def test_the_box_of_a_single_slice_is_what_its_burnt_in_borders_leave(tmp_path: Path) -> None:
    array = np.zeros((40, 50, 1), np.int16)
    array[5:38, 3:46] = np.random.default_rng(0).integers(500, 3500, (33, 43, 1))
    nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / "radiograph.nii")
    assert open_scan(tmp_path / "radiograph.nii", tmp_path / "cache").box == [[5, 38], [3, 46], [0, 1]]


def test_other_units_than_millimetres_are_refused(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), np.eye(4))
    image.header.set_xyzt_units("micron")
    nib.save(image, tmp_path / "microscope.nii")
    with pytest.raises(UnreadableScanError, match=r"microscope\.nii: has lengths in micron"):
        open_scan(tmp_path / "microscope.nii", tmp_path / "cache")
