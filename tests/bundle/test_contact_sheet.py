import io

import numpy as np
from PIL import Image

from bundle.contact_sheet import contact_sheet
from scripts.data.layouts import Sample


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def test_mask_is_outlined_and_values_are_scaled(tmp_path):
    image = np.full((32, 32), 1000, np.uint16)
    image[16:] = 3000
    mask = np.zeros((32, 32), np.uint8)
    mask[:12, 8:24] = 1  # reaches the border
    Image.fromarray(image).save(tmp_path / "image.png")
    Image.fromarray(mask).save(tmp_path / "mask.png")

    def sheet(mask_path):
        samples = [
            Sample(tmp_path / "image.png", 0, "a", split="training"),
            Sample(tmp_path / "image.png", 1, "b", mask_path, split="test"),
        ]
        return contact_sheet(samples, "title", [1000, 3000], seed=0, cache_dir=tmp_path / "cache")

    plain, outlined = pixels(sheet(None)), pixels(sheet(tmp_path / "mask.png"))
    assert plain.shape == outlined.shape
    red = [((drawn[..., 0] - drawn[..., 1]) > 100).sum() for drawn in (plain, outlined)]
    assert red[1] > red[0] + 50
    black = (plain.max(axis=-1) == 0).mean()
    assert black > 0.02  # the halves of two cells at the low end of the range
    assert sheet(None) == sheet(None)
