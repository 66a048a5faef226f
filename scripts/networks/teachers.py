"""Frozen feature extractors from timm's registry."""

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from monai.utils import ensure_tuple
from timm.layers import Format
from timm.models._features import FeatureDictNet, FeatureGetterNet, FeatureHookNet, FeatureListNet
from torch import Tensor, nn

import scripts.networks.vmamba  # noqa: F401  registers VMamba with timm
from scripts.networks.downloads import WeightsError
from scripts.networks.folding import folded
from scripts.networks.weights import load_state_dict, teacher_weights, timm_names, weights_hash

PRETRAINED = "pretrained"  # value of `weights` for released weights
UNTRAINED = "untrained"  # value of `weights` for random weights

logger = logging.getLogger(__name__)

FINEST_STRIDE = 4  # the stem, at stride 2, is used only on request

# timm wraps these around a whole model that it has loaded strictly, so that a missing weight is an error. A feature
# extractor with a class of its own, such as EfficientNet's, it loads leniently: what the file lacks stays random.
_STRICT = (FeatureListNet, FeatureDictNet, FeatureHookNet, FeatureGetterNet)


class Teacher(nn.Module):
    """Frozen timm backbone: passes no gradient and always stays in evaluation mode.

    Args:
        name: Name of a timm model that supports ``features_only``, including ``vmamba_*``; a tag may follow a dot.
        weights: ``"pretrained"`` takes the weights of an installed package for ``tf_efficientnet_lite0`` to ``2``, and
            else downloads the released ones to ``models_dir`` once; ``"untrained"`` draws random weights from
            ``seed``; anything else is the path of a ``.safetensors`` or ``.pth`` file.
        levels: Indices of timm's features to use (``out_indices``); by default all at stride 4 and coarser.
        options: Further arguments of ``timm.create_model``.
        seed: Seed of untrained weights.
        models_dir: Folder for downloaded weights.

    Attributes:
        channels: Channels of each level, shallow to deep.
        strides: Strides of the levels in input pixels, shallow to deep.
        level_hashes: Hash of each level, 64 hex digits, over the options and the weights up to that level. It does not
            depend on which other levels are used.

    Raises:
        WeightsError: If the weights cannot be obtained or do not fit; the message names the file and the remedy.
        ValueError: If timm has no such model.

    >>> teacher = Teacher("test_resnet", "untrained", levels=[2, 3])
    >>> teacher.channels, teacher.strides
    ([48, 192], [8, 16])
    >>> [tuple(level.shape) for level in teacher(torch.rand(1, 3, 64, 64))]
    [(1, 48, 8, 8), (1, 192, 4, 4)]
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        name: str,
        weights: str = PRETRAINED,
        levels: Sequence[int] | None = None,
        options: dict[str, Any] | None = None,
        seed: int = 0,
        models_dir: str = "models",
    ) -> None:
        super().__init__()
        if not timm.is_model(name):
            similar = ", ".join(timm.list_models(f"*{name.split('_')[0]}*")[:8])
            raise ValueError(f"timm has no model '{name}'. Similar: {similar or 'none'}; timm.list_models() lists all.")
        arguments: dict[str, Any] = {"features_only": True, **(options or {})}
        if timm.models.model_entrypoint(name).__module__.endswith(".vision_transformer"):
            arguments.setdefault("dynamic_img_size", True)
        if levels is not None:
            arguments["out_indices"] = tuple(levels)
        self.name, self.weights, self.untrained = name, weights, weights == UNTRAINED
        if self.untrained:
            logger.warning("Teacher %s is UNTRAINED (random weights from seed %d), as configured.", name, seed)
            self.backbone = _create_untrained(name, seed, arguments)
            self.weights = f"{UNTRAINED}, seed {seed}"
        else:
            path = teacher_weights(name, models_dir) if weights == PRETRAINED else Path(weights)
            self.backbone = _create_trained(name, path, arguments)
        backbone: Any = self.backbone
        info = backbone.feature_info
        finest = 1 if levels is not None else FINEST_STRIDE
        self.take = [i for i, stride in enumerate(info.reduction()) if stride >= finest]
        self.channels = [info.channels()[i] for i in self.take]
        self.strides = [info.reduction()[i] for i in self.take]
        self.channels_last = getattr(self.backbone, "output_fmt", Format.NCHW) == Format.NHWC
        for statistic in ("mean", "std"):
            values = torch.tensor(backbone.pretrained_cfg[statistic]).view(1, 3, 1, 1)
            self.register_buffer(statistic, values, persistent=False)
        self.sha256 = weights_hash(self.backbone.state_dict())
        self.level_hashes = [_level_hash(self.backbone, i, options or {}) for i in self.take]
        self.backbone = folded(self.backbone.eval())
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> "Teacher":
        """Keeps evaluation mode, whatever ``mode``: the batch statistics are part of the frozen weights."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, image: Tensor) -> list[Tensor]:
        """Computes features: (B, 3, H, W) in [0, 1] -> (B, channels[i], H / strides[i], W / strides[i])."""
        image = ((image - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        features = self.backbone(image)
        features = [features[i] for i in self.take]
        return [feature.permute(0, 3, 1, 2) for feature in features] if self.channels_last else features

    def identity(self) -> dict[str, str]:
        """Name, origin and hash of the weights, for checkpoints, logs and reports."""
        return {"name": self.name, "weights": self.weights, "sha256": self.sha256}


def _level_hash(backbone: Any, index: int, options: dict[str, Any]) -> str:
    state_dict = backbone.state_dict()
    module = backbone.feature_info.module_name()[index]
    prefixes = tuple(f"{prefix}{name}." for prefix in ("", "model.") for name in (module, module.replace(".", "_")))
    keys = list(state_dict)  # in the order of the forward pass
    last = max((position for position, key in enumerate(keys) if key.startswith(prefixes)), default=len(keys))
    weights = weights_hash({key: state_dict[key] for key in keys[: last + 1]})
    return hashlib.sha256(repr((module, weights, sorted(options.items()))).encode()).hexdigest()


def _create_untrained(name: str, seed: int, arguments: dict[str, Any]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return timm.create_model(name, **arguments)


def _create_trained(name: str, path: Path, arguments: dict[str, Any]) -> nn.Module:
    state_dict = load_state_dict(path)
    backbone = timm.create_model(name, **arguments)
    try:
        state_dict = timm_names(backbone.state_dict(), state_dict)
        if state_dict.keys() == backbone.state_dict().keys():  # a file written for exactly these levels
            backbone.load_state_dict(state_dict)
            return backbone
        # A whole model, whose old key names timm converts. Without a classifier on either side timm loads it strictly;
        # where it would not (see _STRICT), the whole model tells whether anything is missing.
        cfg = timm.get_pretrained_cfg(name)
        heads = tuple(f"{head}." for head in ensure_tuple(cfg and cfg.classifier))
        headless = {key: value for key, value in state_dict.items() if not key.startswith(heads)}
        given: dict[str, Any] = {
            "pretrained_cfg_overlay": {"state_dict": headless, "classifier": None},
            "num_classes": 0,
        }
        if not isinstance(backbone, _STRICT):
            whole = timm.create_model(name, pretrained=True, **given).state_dict()
            backbone.load_state_dict({key: whole[key] for key in backbone.state_dict()})
            return backbone
        return timm.create_model(name, pretrained=True, **given, **arguments)
    except (RuntimeError, KeyError) as error:
        raise WeightsError(
            f"{path} does not hold weights of {name}: {error}. Set network_def#..._teacher#weights to the file of this "
            "model, or name another teacher."
        ) from error
