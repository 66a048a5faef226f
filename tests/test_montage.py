import warnings

import numpy as np
import pytest

from scripts.figures import overlay
from scripts.montage import montage

RNG = np.random.default_rng(0)
SHAPE = (20, 30, 8)
IMAGE, MAP = RNG.random(SHAPE), RNG.random(SHAPE)
MASK = (MAP > 0.9).astype(np.uint8)
MASK[..., 3], MASK[..., 4] = 0, 1


def picture(image=IMAGE, anomaly_map=MAP, mask=MASK, slices=(5, 2, 7), display_range=(0.2, 0.9), **more):
    more = {"scores": [3.14159, 2.5, 1.0, 0.5, 0.4, 0.3][: len(slices)]} | more
    image, anomaly_map, mask = (
        array[..., list(slices)] if np.ndim(array) == 3 else array for array in (image, anomaly_map, mask)
    )
    return montage(image, anomaly_map, mask, slices, display_range=display_range, **more)


def panels(figure):
    """Axes as rows of (plain, overlay, plain, overlay), and the colour bar."""
    *axes, bar = figure.axes
    return axes, bar


def texts(axes):
    return [text.get_text() for text in axes.texts]


def test_each_slice_stands_beside_its_overlay_with_number_and_score():
    axes, bar = panels(picture(title="A scan"))

    shown = [one for one in axes if one.images]
    assert len(axes) == 8  # two rows of two slices
    assert len(shown) == 6
    assert [one.get_title() for one in shown] == [
        "Slice 5", "Score 3.142", "Slice 2", "Score 2.5", "Slice 7", "Score 1",
    ]  # fmt: skip
    for plain, both, index in zip(shown[::2], shown[1::2], (5, 2, 7), strict=True):
        np.testing.assert_array_equal(plain.images[0].get_array(), IMAGE[..., index])
        assert plain.images[0].get_clim() == (0, 1)
        np.testing.assert_array_equal(both.images[0].get_array(), overlay(IMAGE[..., index], MAP[..., index], 0.2, 0.9))
    assert bar.get_ylim() == pytest.approx((0.2, 0.9))


def test_title_and_notice():
    figure = picture(title="A scan")

    assert figure.get_suptitle() == "A scan"
    assert figure.get_supxlabel() == "For research. Not for clinical use."


@pytest.mark.parametrize(("mask", "index", "outlines"), [(MASK, 5, 1), (MASK, 3, 0), (MASK, 4, 0), (None, 5, 0)])
def test_the_mask_is_outlined_where_it_has_an_edge(mask, index, outlines):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        (plain, both), _ = panels(picture(mask=mask, slices=[index]))

    assert not plain.collections
    assert len(both.collections) == outlines


@pytest.mark.parametrize(("plane", "top", "left"), [("axial", "A", "R"), ("coronal", "S", "R"), ("sagittal", "S", "A")])
def test_letters_name_the_sides_at_the_top_and_at_the_left(plane, top, left):
    axes, _ = panels(picture(plane=plane, slices=[0]))

    for one in axes:
        assert texts(one) == [top, left]
        assert [text.get_position() for text in one.texts] == [(0.5, 0.98), (0.02, 0.5)]


def test_an_image_has_no_sides():
    axes, _ = panels(picture(IMAGE[..., :1], MAP[..., :1], None, slices=[0]))

    assert [texts(one) for one in axes] == [[], []]


@pytest.mark.parametrize("pixel_aspect", [0.2, 1.0, 5.0])
def test_pixels_have_their_aspect(pixel_aspect, tmp_path):
    figure = picture(pixel_aspect=pixel_aspect)
    figure.savefig(tmp_path / "montage.png")
    axes, _ = panels(figure)

    for one in axes[:6]:
        box = one.get_position(original=False).transformed(figure.transFigure)
        assert box.height / box.width == pytest.approx(pixel_aspect * 20 / 30, rel=0.01)


@pytest.mark.parametrize("number", [1, 2, 6])
@pytest.mark.parametrize("shape", [(20, 30, 6), (200, 30, 6)])
@pytest.mark.parametrize("title", ["A scan", ""])
def test_pictures_are_1000_pixels_wide_and_nothing_overlaps(number, shape, title, tmp_path):
    image = RNG.random(shape)
    figure = picture(image, image, None, slices=range(number), plane="axial", title=title)
    figure.savefig(tmp_path / "montage.png")
    shown = [*[one for one in figure.axes[:-1] if one.images], figure.axes[-1]]
    boxes = [one.get_tightbbox() for one in shown] + [figure._supxlabel.get_window_extent()]

    assert figure.bbox.width == 1000
    assert all(box.x0 >= 0 and box.y0 >= 0 and box.x1 <= 1000 and box.y1 <= figure.bbox.height for box in boxes)
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"anomaly_map": MAP[1:]}, r"must have one shape \(H, W, N\), got \[\(20, 30, 3\), \(19, 30, 3\)"),
        ({"mask": MASK[:7]}, r"must have one shape .*\(7, 30, 3\)\]"),
        ({"image": IMAGE[..., 0], "anomaly_map": MAP[..., 0], "mask": None}, "must have one shape"),
        ({"slices": []}, "a number and a score for each slice, got 0 numbers and 0 scores for 0 slices"),
        ({"scores": [1.0]}, "got 3 numbers and 1 scores"),
        ({"anomaly_map": MAP * np.nan}, "600 NaN or infinite values"),
        ({"display_range": (1.0, 1.0)}, "low .* must be less than high"),
        ({"plane": "oblique"}, "plane must be .* got 'oblique'"),
    ],
)
def test_bad_input_says_what_is_wrong(arguments, message):
    with pytest.raises(ValueError, match=message):
        picture(**arguments)
