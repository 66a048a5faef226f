import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

from scripts.figures import BLUE, COLOUR_MAP, ORANGE, Case, heat_map_grid, overlay, roc_and_pr, score_histogram

RNG = np.random.default_rng(0)
LABELS = (RNG.random(80) < 0.4).astype(int)
SCORES = np.round(60 + RNG.normal(size=80) + LABELS, 1)


def case(name="a", label=1, mask=True, size=(32, 24), colour=False, level=0.0):
    anomaly_map = level + RNG.random(size)
    return Case(
        image=RNG.random((*size, 3) if colour else size),
        mask=(anomaly_map > level + 0.9).astype(np.uint8) if mask else None,
        anomaly_map=anomaly_map,
        score=1.2345678,
        label=label,
        name=name,
    )


def panels(figure):
    """Axes as a grid of rows by columns; the colour bar apart."""
    *axes, bar = figure.axes
    return np.array(axes).reshape(-1, 5), bar


def test_roc_and_pr_hold_the_curves_of_scikit_learn():
    roc, pr = roc_and_pr(SCORES, LABELS).axes

    np.testing.assert_allclose(roc.lines[0].get_xydata().T, roc_curve(LABELS, SCORES, drop_intermediate=False)[:2])
    precision, recall, _ = precision_recall_curve(LABELS, SCORES)
    np.testing.assert_allclose(pr.lines[0].get_xydata().T[:, ::-1], (recall, precision))
    assert pr.lines[0].get_drawstyle() == "steps-pre"


def test_roc_and_pr_name_the_areas_and_chance():
    roc, pr = roc_and_pr(SCORES, LABELS).axes

    assert [text.get_text() for text in roc.get_legend().texts] == [
        f"AUROC {roc_auc_score(LABELS, SCORES):.3f}",
        "chance 0.500",
    ]
    assert [text.get_text() for text in pr.get_legend().texts] == [
        f"AP {average_precision_score(LABELS, SCORES):.3f}",
        f"chance {LABELS.mean():.3f}",
    ]
    np.testing.assert_allclose(pr.lines[1].get_ydata(), LABELS.mean())
    np.testing.assert_array_equal(roc.lines[1].get_xydata(), [[0, 0], [1, 1]])


def test_roc_and_pr_need_both_classes():
    with pytest.raises(ValueError, match="AUROC is not defined: all 3 labels are 1"):
        roc_and_pr([1, 2, 3], [1, 1, 1])


@pytest.mark.parametrize("labels", [LABELS, np.zeros(80), np.ones(80)], ids=["both", "normal", "anomalous"])
def test_score_histogram_counts_each_class_on_common_bins(labels):
    (axes,) = score_histogram(SCORES, labels).axes

    edges = np.histogram_bin_edges(SCORES, bins=30)
    for patch, label, colour in zip(axes.patches, (0, 1), (BLUE, ORANGE), strict=True):
        assert patch.get_edgecolor()[:3] == to_rgb(colour)
        corners = patch.get_xy()
        counts, _ = np.histogram(SCORES[labels == label], bins=edges)
        assert corners[:, 1].max() == counts.max()
        np.testing.assert_allclose(np.unique(corners[:, 0]), edges)
    normal = int((labels == 0).sum())
    texts = [text.get_text() for text in axes.get_legend().texts]
    assert texts == [f"normal (n = {normal})", f"anomalous (n = {80 - normal})"]


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [([], [], "scores are empty"), ([1, np.nan], [0, 1], "1 NaN"), ([1, 2], [0, 3], "labels must be 0")],
)
def test_score_histogram_refuses_bad_input(scores, labels, message):
    with pytest.raises(ValueError, match=message):
        score_histogram(scores, labels)


def test_heat_map_grid_has_a_row_a_case_with_name_label_and_score():
    figure = heat_map_grid([case("first"), case("second", label=0, mask=False)], "A title")
    grid, bar = panels(figure)

    assert figure.get_suptitle() == "A title"
    assert grid.shape == (2, 5)
    assert [axes.get_title() for axes in grid[0, 1:]] == ["Input", "Mask", "Anomaly map", "Overlay"]
    assert bar.get_ylabel() == "Anomaly map"
    assert [text.get_text() for text in grid[0, 0].texts] == ["first", "anomalous", "score 1.235"]
    assert [text.get_text() for text in grid[1, 0].texts] == ["second", "normal", "score 1.235"]
    assert [text.get_text() for text in grid[1, 2].texts] == ["no mask"]
    assert not grid[1, 2].images


def test_heat_map_grid_shows_the_data_on_one_colour_scale():
    cases = [case(level=60.0), case(level=61.0, colour=True, size=(20, 40)), case(mask=False, level=60.5)]
    grid, bar = panels(heat_map_grid(cases, "title"))
    low, high = np.percentile(np.concatenate([c.anomaly_map.ravel() for c in cases]), (50, 99.9))

    assert bar.get_ylim() == pytest.approx((low, high))
    for (_, image, mask, heat, both), shown in zip(grid, cases, strict=False):
        np.testing.assert_array_equal(image.images[0].get_array(), shown.image)
        np.testing.assert_array_equal(heat.images[0].get_array(), shown.anomaly_map)
        assert heat.images[0].get_clim() == pytest.approx((low, high))
        np.testing.assert_array_equal(both.images[0].get_array(), overlay(shown.image, shown.anomaly_map, low, high))
        if shown.mask is not None:
            np.testing.assert_array_equal(mask.images[0].get_array(), shown.mask)
        assert len(both.collections) == (shown.mask is not None)  # the outline


@pytest.mark.parametrize("value", [0.0, 60.0, -1e6])
def test_heat_map_grid_of_flat_maps_stays_grey(value):
    flat = case()._replace(anomaly_map=np.full((32, 24), value))
    grid, _ = panels(heat_map_grid([flat], "flat"))
    shown = np.asarray(grid[0, 4].images[0].get_array())

    np.testing.assert_array_equal(shown, np.rint(255 * flat.image)[..., None].repeat(3, -1))


def test_heat_map_grid_sees_an_anomaly_of_a_single_pixel():
    spot = np.zeros((64, 64))
    spot[5, 7] = 3
    _, bar = panels(heat_map_grid([case(size=(64, 64))._replace(anomaly_map=spot)], "spot"))

    assert bar.get_ylim() == (0, 3)


def test_heat_map_grid_refuses_bad_input():
    with pytest.raises(ValueError, match="at least one case"):
        heat_map_grid([], "title")
    with pytest.raises(ValueError, match=r"slice 7: mask \(4, 4\) and map \(32, 24\) differ"):
        heat_map_grid([case("slice 7")._replace(mask=np.zeros((4, 4)))], "title")
    with pytest.raises(ValueError, match="must be"):
        heat_map_grid([case()._replace(image=np.zeros((4, 4)))], "title")


@pytest.mark.parametrize("rows", [1, 3])
def test_pictures_are_1000_pixels_wide_and_nothing_overlaps(rows, tmp_path):
    figures = [roc_and_pr(SCORES, LABELS), score_histogram(SCORES, LABELS)]
    figures.append(heat_map_grid([case("a/very/long/name/of/a/slice_of_a_patient.nii.gz")] * rows, "title"))
    for figure in figures:
        figure.savefig(tmp_path / "figure.png")
        boxes = [axes.get_tightbbox() for axes in figure.axes]
        assert figure.bbox.width == 1000
        assert all(box.x0 >= 0 and box.y0 >= 0 and box.x1 <= 1000 and box.y1 <= figure.bbox.height for box in boxes)
        assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


@pytest.mark.parametrize("size", [(1, 1), (7, 300), (64, 64)])
def test_overlay_is_the_grey_image_up_to_low(size):
    image = RNG.random(size)
    anomaly_map = RNG.normal(size=size)
    result = overlay(image, anomaly_map, low=anomaly_map.max(), high=anomaly_map.max() + 1)

    assert result.dtype == np.uint8
    assert result.shape == (*size, 3)
    np.testing.assert_array_equal(result, np.rint(255 * image)[..., None].repeat(3, -1))


def test_overlay_blends_three_quarters_of_the_hottest_colour_from_high_on():
    image = np.full((2, 2), 0.4)
    result = overlay(image, np.array([[0.0, 10.0], [20.0, 15.0]]), low=0, high=10)

    hottest = np.rint(255 * (0.25 * 0.4 + 0.75 * np.array(COLOUR_MAP(1.0)[:3])))
    np.testing.assert_array_equal(result[0, 0], [102, 102, 102])
    np.testing.assert_array_equal(result.reshape(-1, 3)[1:], [hottest] * 3)


def test_overlay_turns_colour_to_luminance_and_clips():
    image = np.array([[[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [2, 2, 2], [-1, -1, -1]]])
    result = overlay(image, np.zeros((1, 5)), low=0, high=1)

    np.testing.assert_array_equal(result[0, :, 0], [76, 150, 29, 255, 0])
    assert (result == result[..., :1]).all()


@pytest.mark.parametrize(
    ("image", "anomaly_map", "low", "high", "message"),
    [
        ((4, 4), np.zeros((4, 5)), 0, 1, r"image \(4, 4\) must be .* anomaly map \(4, 5\)"),
        ((3, 4, 4), np.zeros((4, 4)), 0, 1, r"image \(3, 4, 4\)"),
        ((4, 4), np.zeros((1, 4, 4)), 0, 1, r"anomaly map \(1, 4, 4\)"),
        ((2, 2), np.array([[np.nan, 0], [np.inf, 0]]), 0, 1, "2 NaN or infinite values of 4"),
        ((2, 2), np.zeros((2, 2)), 1, 1, r"low \(1\) must be less than high \(1\)"),
        ((2, 2), np.zeros((2, 2)), np.nan, 1, r"low \(nan\)"),
    ],
)
def test_overlay_refuses_bad_input(image, anomaly_map, low, high, message):
    with pytest.raises(ValueError, match=message):
        overlay(np.zeros(image), anomaly_map, low, high)


def test_pyplot_is_never_loaded():
    code = (
        "import sys, scripts.figures as f; f.roc_and_pr([1, 2], [0, 1]); assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1], check=True, timeout=120)


def test_heat_map_grid_shows_pixels_in_their_aspect():
    shown = [one for one in heat_map_grid([case()._replace(pixel_aspect=2.5)], "thick slices").axes if one.images]
    assert [one.get_aspect() for one in shown[:4]] == [2.5] * 4
