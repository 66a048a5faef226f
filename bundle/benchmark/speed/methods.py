"""Builds methods from their configs, with UNTRAINED teachers and made-up images, as speed depends on neither."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from monai.data import Dataset, MetaTensor
from torch import Tensor

from scripts.engines import DetectorTrainer

ROOT = Path(__file__).parents[3]
METHODS: dict[str, tuple[str, ...]] = {  # overlays of configs/train.json
    "RD4AD": ("configs/methods/rd4ad.json",),
    "PDD": (),
}
PRECISIONS = {"fp32": False, "bf16": True}  # value of amp in the configs
# Networks for --quick, so small that they only show whether it runs.
_SMALL: dict[str, dict[str, Any]] = {
    "RD4AD": {
        "network_def#teacher#name": "test_resnet",
        "network_def#block": "basic",
        "network_def#decoder_blocks": 1,
        "network_def#embedding_blocks": 1,
    },
    "PDD": {"network_def#local_teacher#name": "test_resnet", "network_def#global_teacher#name": "vmamba_pico"},
}


def method_config(name: str, device: str, quick: bool = False) -> dict[str, Any]:
    """Merged configs of a method's training, changed only where speed does not depend on it.

    The handlers are removed: they write checkpoints, MLflow records and progress.

    Args:
        name: Key of ``METHODS``.
        device: Name of a ``torch.device``.
        quick: Whether to use small networks instead of the configs'.
    """
    files = [str(ROOT / file) for file in ("configs/train.json", *METHODS[name])]
    parser = ConfigParser(ConfigParser.load_config_files(files))
    parser["device"] = f"$torch.device('{device}')"
    parser["train#handlers"] = []
    for part, definition in parser["network_def"].items():
        if isinstance(definition, dict) and str(definition.get("_target_")).endswith(".Teacher"):
            parser[f"network_def#{part}#weights"] = "untrained"
    for place, value in (_SMALL[name] if quick else {}).items():
        parser[place] = value
    return parser.get()


class Method:
    """Network, loss and optimizer of a method, built once for all its measurements.

    Args:
        name: Key of ``METHODS``.
        device: Name of a ``torch.device``.
        image_size: Side of the images in pixels.
        quick: Whether to use small networks instead of the configs'.
    """

    def __init__(self, name: str, device: str, image_size: int, quick: bool = False) -> None:
        self.name, self.image_size, self.device = name, image_size, torch.device(device)
        self._config = method_config(name, device, quick)
        parser = ConfigParser(copy.deepcopy(self._config))
        self._built = {
            part: parser.get_parsed_content(part) for part in ("network_def", "network", "optimizer", "loss")
        }
        self.network = self._built["network"]

    def trainer(self, images: int, batch_size: int, amp: bool) -> DetectorTrainer:
        """Builds an engine that trains one epoch for each run, with an empty feature cache.

        Args:
            images: Images of an epoch, kept in memory ready for the network.
            batch_size: Images in a batch.
            amp: Whether to use bfloat16 autocast.
        """
        parser = ConfigParser(copy.deepcopy(self._config))
        items = [{"image": image} for image in made_up_images(images, self.image_size)]
        values = {"epochs": 1, "batch_size": batch_size, "amp": amp, "train#dataset": Dataset(items)}
        for place, value in {**self._built, **values}.items():
            parser[place] = value
        return parser.get_parsed_content("train#trainer")

    def inference(self, batch_size: int, amp: bool) -> Callable[[], Tensor]:
        """Builds a function that computes the anomaly maps (B, 1, H, W) of a batch, as evaluation and inference do."""
        parser = ConfigParser({"amp": amp, "inferer": self._config["train"]["inferer"]})
        inferer = parser.get_parsed_content("inferer")
        images = torch.stack([image.as_tensor() for image in made_up_images(batch_size, self.image_size)])
        images = images.to(self.device)

        network = copy.deepcopy(self.network).fold(amp)

        def infer() -> Tensor:
            with torch.no_grad():
                return inferer(images, network)

        return infer


def made_up_images(count: int, size: int, seed: int = 0) -> list[MetaTensor]:
    """Noise images (3, size, size) in [0, 1], each with its own file name."""
    noise = torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))
    return [MetaTensor(image, meta={"filename_or_obj": f"image {i}"}) for i, image in enumerate(noise)]
