"""From anomaly maps to scores, masks and labels."""

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor, decollate_batch
from monai.transforms import Compose
from PIL import Image

from scripts.anomaly_map import scan_score
from scripts.reference import MapReference
from scripts.transforms import (
    AnomalyScored,
    CropToForegroundd,
    GroundTruthd,
    LoadScand,
    MapInverted,
    ResizeInPlaned,
    SliceLabelsd,
    ToPlaned,
)

BOX = np.array([[-0.5, -0.5, -0.5], [1.5, 1.5, 4.5]])  # of a foreground of 2 x 2 x 5 voxels


@pytest.mark.parametrize(("pooling", "expected"), [("max", 3.0), ("mean", 1.5), ("top_50%", 2.5), ("top_1%", 3.0)])
def test_the_score_of_an_image_is_its_pooled_map(pooling: str, expected: float) -> None:
    pred = torch.tensor([[[0.0, 1.0], [2.0, 3.0]]])[..., None]
    data = AnomalyScored(pooling)({"pred": pred, "image": torch.ones(3, 2, 2, 1)})
    assert data["score"].item() == expected
    assert data["slice_scores"].tolist() == [expected]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        *[("max", 5.0), ("mean", 2.75), ("top_1", 5.0), ("top_2", 4.0), ("top_9", 2.75), ("percentile_100", 5.0)],
        *[("top_50%", 4.0), ("top_1%", 5.0), ("top_100%", 2.75)],
    ],
)
def test_the_score_of_a_scan_is_that_of_its_slices_by_the_rule(rule: str, expected: float) -> None:
    maps = torch.zeros(4, 2, 2)
    maps[:, 0, 0] = torch.tensor([1.0, 5.0, 2.0, 3.0])
    assert scan_score(maps, maps.amax((1, 2)), maps > 0, rule).item() == pytest.approx(expected)


def test_a_percentile_is_that_of_the_foreground_as_numpy_has_it() -> None:
    maps = torch.randn(3, 8, 9, generator=torch.Generator().manual_seed(0))
    foreground = torch.zeros_like(maps, dtype=torch.bool)
    foreground[1, 2:5, 3:8] = True
    score = scan_score(maps, maps.amax((1, 2)), foreground, "percentile_90.5").item()
    assert score == pytest.approx(np.percentile(maps[1, 2:5, 3:8].numpy(), 90.5))


def test_empty_slices_do_not_count_for_a_mean_over_slices() -> None:
    foreground = torch.zeros(4, 2, 2, dtype=torch.bool)
    foreground[1:3, 0] = True
    scores = torch.tensor([9.0, 1.0, 2.0, 9.0])
    found = [scan_score(torch.zeros(4, 2, 2), scores, foreground, rule).item() for rule in ("mean", "top_50%", "max")]
    assert found == [1.5, 2.0, 9.0]
    assert scan_score(torch.zeros(4, 2, 2), scores, foreground & False, "mean").item() == 5.25


def test_a_map_is_standardised_before_it_is_pooled_and_cut_to_the_foreground() -> None:
    reference = MapReference(stride=1, floor=0.0)
    places = torch.linspace(0, 1, 200)
    normal = places.view(-1, 1, 1, 1) + 0.1 * torch.randn(200, 1, 2, 2)
    reference.add(normal, torch.zeros(200, 3, 2, 2), places, [str(one % 9) for one in range(200)])
    reference.settle()
    image = MetaTensor(torch.ones(3, 2, 2, 5), affine=torch.eye(4), meta={"foreground_box": BOX})
    image[:, 0, 0] = 0
    pred = torch.linspace(0, 1, 5).expand(1, 2, 2, 5).clone()  # as normal at each place
    pred[..., 1, 2] += 0.5
    found = AnomalyScored("max", foreground_only=True, reference=reference)({"pred": pred, "image": image})
    assert found["top_slices"][0] == 2
    assert found["slice_scores"][2] > 3
    assert found["slice_scores"][[0, 1, 3, 4]].max() < 2
    assert (found["pred"][0, 0, 0] == 0).all()
    images = torch.zeros(5, 3, 2, 2)
    expected = reference(pred.permute(3, 0, 1, 2), images, torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9]))
    torch.testing.assert_close(found["pred"][0, 1, 1], expected[:, 0, 1, 1])


class UpperHalf:
    """Template whose region is the upper half of each picture."""

    def inside(self, places: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        mask = torch.zeros(len(places), 1, *size, dtype=torch.bool)
        mask[:, :, : size[0] // 2] = True
        return mask


def test_a_map_in_the_template_comes_back_to_the_grid_of_the_scan() -> None:
    affine = torch.diag(torch.tensor([1.0, 1, 2, 1]))
    affine[:3, 3] = torch.tensor([0.5, 0.5, 0.5])
    coarse = torch.diag(torch.tensor([2.0, 2, 1, 1]))
    coarse[:3, 3] = torch.tensor([1.0, 1.0, 0.0])
    image = MetaTensor(torch.ones(3, 4, 4, 8), affine=coarse, meta={"foreground_box": BOX, "shift": 0.0})
    scan = MetaTensor(torch.ones(3, 8, 8, 3), affine=affine, meta={"foreground_box": BOX})
    pred = torch.arange(8.0).view(1, 1, 1, 8).expand(1, 4, 4, 8)  # the height in millimetres
    found = AnomalyScored("max", template=UpperHalf())({"pred": pred, "image": image, "scan": scan})  # type: ignore[arg-type]
    assert "scan" not in found
    assert found["image"] is scan
    assert found["pred"].shape == (1, 8, 8, 3)
    torch.testing.assert_close(found["pred"][0, 1, 4], torch.tensor([0.5, 2.5, 4.5]))
    assert found["pred"][0, 5:].abs().max() == 0
    assert found["slice_scores"].tolist() == [0.5, 2.5, 4.5]


def test_the_reference_is_part_of_what_a_calibration_counts_for() -> None:
    assert AnomalyScored().settings["reference"] is None
    assert AnomalyScored(reference=MapReference(bandwidth=0.1)).settings["reference"]["bandwidth"] == 0.1


@pytest.mark.parametrize("rule", ["best", "top_0", "top_", "top_0%", "top_101%", "percentile_101", "max_2"])
def test_an_unknown_rule_is_refused(rule: str) -> None:
    with pytest.raises(ValueError, match=f"top_N.*got '{rule}'"):
        scan_score(torch.ones(1, 1, 1), torch.ones(1), torch.ones(1, 1, 1) > 0, rule)


def test_outside_the_foreground_nothing_is_anomalous_and_holes_belong_to_it() -> None:
    image = torch.zeros(3, 5, 5, 2)
    image[0, 1:4, 1:4, 0] = 0.5
    image[0, 2, 2, 0] = 0  # a dark lesion
    data = AnomalyScored(foreground_only=True)({"pred": torch.full((1, 5, 5, 2), 7.0), "image": image})
    expected = torch.zeros(5, 5)
    expected[1:4, 1:4] = 7
    assert torch.equal(data["pred"][0, ..., 0], expected)
    assert data["slice_scores"].tolist() == [7, 0]
    assert data["top_slices"].tolist() == [0, 1]


def test_slices_are_labelled_by_the_area_of_their_mask() -> None:
    truth = torch.zeros(1, 4, 4, 3)
    truth[0, 0, :2, 1] = 1  # 2 pixels of 2 mm x 3 mm
    truth[0, :, :, 2] = 1
    truth = MetaTensor(truth, affine=np.diag([2.0, 3.0, 5.0, 1.0]))
    data = {
        "ground_truth": truth,
        "slice_scores": torch.arange(3.0),
        "score": torch.tensor(2.0),
        "label": 1,
        "group": "P1",
    }
    data |= {"empty_slices": torch.zeros(3, dtype=torch.bool), "top_slices": torch.tensor([2, 1, 0])}
    assert SliceLabelsd()(data)["image_labels"].tolist() == [0, 1, 1]
    assert SliceLabelsd()(data)["patient"] == "P1"
    assert SliceLabelsd(min_area=12)(data)["image_labels"].tolist() == [0, 1, 1]
    assert SliceLabelsd(min_area=12.1)(data)["image_labels"].tolist() == [0, 0, 1]
    data["empty_slices"] = torch.tensor([True, True, False])
    assert SliceLabelsd()(data)["image_labels"].tolist() == [1, 1]
    assert SliceLabelsd()(data)["image_numbers"].tolist() == [1, 2]
    del data["ground_truth"]
    assert SliceLabelsd()(data)["image_labels"].tolist() == [1]
    assert SliceLabelsd()(data)["image_scores"].tolist() == [2]


SHAPE = (9, 8, 7)
AFFINE = nib.affines.from_matvec(nib.eulerangles.euler2mat(0.2, 0.1, -0.3) @ np.diag([-2.0, 3.0, 4.0]), [5, 6, 7])
LESION = np.zeros(SHAPE, np.uint8)
LESION[2:4, 5, 1:5] = 7


def write(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> str:
    nib.save(nib.Nifti1Image(array, affine), path)
    return str(path)


@pytest.fixture
def scan(tmp_path: Path) -> str:
    return write(tmp_path / "scan.nii.gz", np.random.default_rng(0).random(SHAPE).astype(np.float32))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_map_is_inverted_after_a_batch_was_taken_apart(tmp_path: Path, scan: str, workers: int) -> None:
    process = Compose(
        [
            LoadScand("image", tmp_path / "cache", "coronal"),
            ToPlaned("image", "coronal"),
            CropToForegroundd("image", margin=0),
            ResizeInPlaned("image", 16),
        ]
    )
    (batch,) = DataLoader(Dataset([{"image": scan}], process), batch_size=1, num_workers=workers)
    batch["pred"] = batch["image"].as_tensor().clone()
    (item,) = decollate_batch(batch)
    result = MapInverted(process)(item)
    assert result["pred"].shape == (1, 16, 16, 8)  # the network's own stays
    assert result["anomaly_map"].shape == (1, *SHAPE)
    np.testing.assert_allclose(result["anomaly_map"].affine, AFFINE, atol=1e-5)
    turned = ToPlaned("anomaly_map", "coronal")(result)["anomaly_map"]
    read = ToPlaned("image", "coronal")(LoadScand("image", tmp_path / "cache")({"image": scan}))["image"]
    np.testing.assert_allclose(turned.affine, read.affine, atol=1e-5)
    np.testing.assert_allclose(turned[0, 3:-3, 3:-3], read[0, 3:-3, 3:-3], atol=0.35)  # but for the interpolation
    assert np.corrcoef(turned.flatten(), read.flatten())[0, 1] > 0.9


def anomaly_map(plane: str, affine: np.ndarray = AFFINE) -> MetaTensor:
    grid = MetaTensor(torch.zeros(1, *SHAPE), affine=torch.from_numpy(affine))
    return ToPlaned("map", plane)({"map": grid})["map"]


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_the_ground_truth_is_the_mask_turned_to_the_plane(tmp_path: Path, plane: str) -> None:
    mask = write(tmp_path / "mask.nii.gz", LESION)
    data: dict[str, Any] = {"anomaly_map": anomaly_map(plane), "mask": mask}
    truth = GroundTruthd(tmp_path / "cache", plane)(data)["ground_truth"]
    assert truth.dtype == torch.uint8
    assert set(truth.unique().tolist()) == {0, 1}
    for voxel in np.argwhere(truth[0].numpy()):
        place = nib.affines.apply_affine(np.asarray(truth.affine), voxel)
        stored = np.round(nib.affines.apply_affine(np.linalg.inv(AFFINE), place)).astype(int)
        assert LESION[tuple(stored)]
    assert truth.sum() == (LESION > 0).sum()


def test_a_mask_stored_another_way_lies_where_it_says(tmp_path: Path) -> None:
    turn = np.array([[1, -1], [2, 1], [0, -1]])
    turned = nib.orientations.apply_orientation(LESION, turn)
    one = write(tmp_path / "one.nii", LESION)
    other = write(tmp_path / "other.nii", turned, AFFINE @ nib.orientations.inv_ornt_aff(turn, SHAPE))
    truths = [
        GroundTruthd(tmp_path / "cache")({"anomaly_map": anomaly_map("axial"), "mask": mask})["ground_truth"]
        for mask in (one, other)
    ]
    np.testing.assert_array_equal(*truths)


def test_without_mask_nothing_is_anomalous(tmp_path: Path) -> None:
    truth = GroundTruthd(tmp_path)({"anomaly_map": anomaly_map("axial") + 1, "mask": ""})["ground_truth"]
    assert truth.dtype == torch.uint8
    assert truth.shape == (1, 8, 9, 7)
    assert not truth.any()


def test_a_mask_on_another_grid_than_its_image_is_refused(tmp_path: Path) -> None:
    elsewhere = AFFINE.copy()
    elsewhere[1, 3] += 1.0
    masks = [write(tmp_path / "a.nii", LESION[:-1]), write(tmp_path / "b.nii", LESION, elsewhere)]
    for mask in masks:
        with pytest.raises(ValueError, match=r"[ab]\.nii is not on the grid of its image.*Resample"):
            GroundTruthd(tmp_path / "cache")({"anomaly_map": anomaly_map("axial"), "mask": mask})


def test_the_mask_of_an_image_is_compared_pixel_by_pixel(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 255, (12, 17), np.uint8)
    mask = np.zeros_like(picture)
    mask[3:5, 11:14] = 255
    Image.fromarray(picture).save(tmp_path / "image.png")
    Image.fromarray(mask).save(tmp_path / "mask.png")
    process = Compose([LoadScand("image", tmp_path), ToPlaned("image"), ResizeInPlaned("image", 32, True)])
    image = process({"image": str(tmp_path / "image.png")})["image"]
    data = MapInverted(process)({"image": image, "pred": image.as_tensor().float(), "mask": str(tmp_path / "mask.png")})
    data = GroundTruthd(tmp_path)(ToPlaned("anomaly_map")(data))
    np.testing.assert_array_equal(data["ground_truth"][0, ..., 0], mask > 0)
    assert data["anomaly_map"].shape == data["ground_truth"].shape
