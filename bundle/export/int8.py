"""INT8 by post-training quantisation, with ranges from normal images of the training split."""

import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from scripts.extras import EXPORT, import_extra
from scripts.model.folder import ModelFolder

IMAGES = 300  # as many as nncf takes by default
# In float: the map, whose small differences are all that counts; and of a selective scan all but its projections to and
# from the inner width and its convolution, which are modules of their own: errors of the recurrence add up over tokens.
FLOAT = (r"anomaly_map/.*", r".*\.op/.*")


def training_images(folder: ModelFolder, values: Mapping[str, str]) -> list[Tensor]:
    """Images (3, H, W) of the training split, prepared as for training but not augmented, evenly chosen.

    Args:
        folder: Model folder.
        values: Config values by id, as another datalist.
    """
    config = folder.config("train", **values, augmentation=None)
    config["train#dataset#cache_num"] = 0
    dataset: Any = config.get_parsed_content("train#dataset")
    chosen = torch.linspace(0, len(dataset) - 1, min(IMAGES, len(dataset))).round().int().tolist()
    return [dataset[index]["image"].as_tensor() for index in chosen]


def quantised(model: Any, images: list[Tensor]) -> Any:
    """Quantises an OpenVINO model to INT8 weights and activations, but for what ``FLOAT`` matches.

    Args:
        images: (3, H, W) in [0, 1].
    """
    os.environ.setdefault("NNCF_CI", "1")  # else it reports its use to Google Analytics, without asking
    nncf = import_extra("nncf", EXPORT)
    return nncf.quantize(
        model,
        nncf.Dataset(images, lambda image: image[None].numpy()),
        subset_size=len(images),
        preset=nncf.QuantizationPreset.MIXED,  # signed activations around SiLU and GELU
        ignored_scope=nncf.IgnoredScope(patterns=list(FLOAT), validate=False),
    )
