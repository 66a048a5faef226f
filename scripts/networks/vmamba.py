"""VMamba-Tiny (Liu et al., 2024, arXiv 2401.10166) for timm's registry; the released weights load key by key.

Features are taken after the down-sampling of their stage, as PDD does: (192, 384, 768, 768) channels at strides
(8, 16, 32, 32). Activations are channels-last internally; features are returned as NCHW.
"""

import math
from collections import OrderedDict
from typing import Any

import torch
import torch.nn.functional as F
from timm.models import build_model_with_cfg, register_model
from timm.models._features import feature_take_indices
from timm.models._registry import generate_default_cfgs
from torch import Tensor, nn

from scripts.networks.selective_scan import DIRECTIONS, selective_scan_2d

_NORM_EPS = 1e-5


class Permute(nn.Module):
    def __init__(self, *dims: int) -> None:
        super().__init__()
        self.dims = dims

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(self.dims)


def _to_channels_last() -> Permute:
    return Permute(0, 2, 3, 1)


def _to_channels_first() -> Permute:
    return Permute(0, 3, 1, 2)


def _layer_norm(channels: int) -> nn.LayerNorm:
    return nn.LayerNorm(channels, eps=_NORM_EPS)


class MergePatches(nn.Module):
    """Stacks the pixels of each 2x2 patch: (B, H, W, C) -> (B, H/2, W/2, 4C), with zero padding at odd sizes."""

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
        return torch.cat([x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]], dim=-1)


class SS2D(nn.Module):
    """2D selective scan with its projections (VMamba, section 4.2).

    Args:
        channels: Number of input and output channels.
        states: State size N of a channel.
        ratio: Inner width divided by ``channels``.
        gated: Whether the result is multiplied by the SiLU of a second input projection (v0).
        conv_bias: Whether the depth-wise convolution has a bias (v0).
    """

    def __init__(self, channels: int, states: int, ratio: float, gated: bool, conv_bias: bool) -> None:
        super().__init__()
        inner, rank = int(ratio * channels), math.ceil(channels / 16)
        self.gated = gated
        self.in_proj = nn.Linear(channels, inner * (2 if gated else 1), bias=False)
        self.conv2d = nn.Conv2d(inner, inner, 3, padding=1, groups=inner, bias=conv_bias)
        self.x_proj_weight = nn.Parameter(torch.empty(DIRECTIONS, rank + 2 * states, inner))
        self.dt_projs_weight = nn.Parameter(torch.empty(DIRECTIONS, inner, rank))
        self.dt_projs_bias = nn.Parameter(torch.empty(DIRECTIONS, inner))
        self.A_logs = nn.Parameter(torch.arange(1.0, states + 1).log().repeat(DIRECTIONS * inner, 1))
        self.Ds = nn.Parameter(torch.ones(DIRECTIONS * inner))
        self.out_norm = _layer_norm(inner)
        self.out_proj = nn.Linear(inner, channels, bias=False)
        self._reset_parameters()

    def _reset_parameters(self) -> None:
        nn.init.uniform_(
            self.x_proj_weight, -(self.x_proj_weight.shape[2] ** -0.5), self.x_proj_weight.shape[2] ** -0.5
        )
        rank = self.dt_projs_weight.shape[2]
        nn.init.uniform_(self.dt_projs_weight, -(rank**-0.5), rank**-0.5)
        # Mamba's initialisation: softplus(bias) is log-uniform in [1e-3, 1e-1]
        with torch.no_grad():
            step = torch.exp(torch.empty_like(self.dt_projs_bias).uniform_(math.log(1e-3), math.log(1e-1)))
            self.dt_projs_bias.copy_(step + torch.log(-torch.expm1(-step)))

    def forward(self, x: Tensor) -> Tensor:
        """Scans a feature map: (B, H, W, C) -> (B, H, W, C)."""
        x = self.in_proj(x)
        gate = None
        if self.gated:
            x, gate = x.chunk(2, dim=-1)
        x = F.silu(self.conv2d(x.permute(0, 3, 1, 2))).permute(0, 2, 3, 1)
        # The projection acts on single tokens, so it runs once in image order; only the recurrence needs four orders.
        projected = F.linear(x, self.x_proj_weight.flatten(0, 1)).unflatten(-1, (DIRECTIONS, -1))
        a = -torch.exp(self.A_logs.float()).unflatten(0, (DIRECTIONS, -1))
        skip = self.Ds.unflatten(0, (DIRECTIONS, -1))
        y = selective_scan_2d(x, projected, self.dt_projs_weight, self.dt_projs_bias, a, skip)
        y = self.out_norm(y)
        if gate is not None:
            y = y * F.silu(gate)
        return self.out_proj(y)


class MLP(nn.Module):
    def __init__(self, channels: int, ratio: float) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, int(ratio * channels))
        self.fc2 = nn.Linear(int(ratio * channels), channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class VSSBlock(nn.Module):
    def __init__(self, channels: int, mlp_ratio: float, **ssm: Any) -> None:
        super().__init__()
        self.norm = _layer_norm(channels)
        self.op = SS2D(channels, **ssm)
        self.norm2 = _layer_norm(channels) if mlp_ratio else nn.Identity()
        self.mlp: MLP | None = MLP(channels, mlp_ratio) if mlp_ratio else None

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.op(self.norm(x))
        return x if self.mlp is None else x + self.mlp(self.norm2(x))


def _patch_embed(channels: int, overlapping: bool) -> nn.Sequential:
    if not overlapping:
        return nn.Sequential(nn.Conv2d(3, channels, 4, stride=4), _to_channels_last(), _layer_norm(channels))
    half = channels // 2
    return nn.Sequential(
        nn.Conv2d(3, half, 3, stride=2, padding=1),
        _to_channels_last(),
        _layer_norm(half),
        _to_channels_first(),
        nn.GELU(),
        nn.Conv2d(half, channels, 3, stride=2, padding=1),
        _to_channels_last(),
        _layer_norm(channels),
    )


def _downsample(channels: int, overlapping: bool) -> nn.Sequential:
    out = 2 * channels
    if overlapping:
        convolution = nn.Conv2d(channels, out, 3, stride=2, padding=1)
        return nn.Sequential(_to_channels_first(), convolution, _to_channels_last(), _layer_norm(out))
    return nn.Sequential(MergePatches(), _layer_norm(4 * channels), nn.Linear(4 * channels, out, bias=False))


class VMamba(nn.Module):
    """VMamba backbone with timm's interface.

    Args:
        depths: Number of blocks in each stage.
        dim: Channels of the first stage; each down-sampling doubles them.
        states: State size N of the selective scan.
        ssm_ratio: Inner width of the scan, as a multiple of the stage's channels.
        mlp_ratio: Hidden width of the MLP branch, as a multiple of the stage's channels; 0 omits the branch (v0).
        vanilla: Whether to build the first published version, v0, with a gated scan, 4x4 patches and patch merging.
            Later versions (s2l5, s1l8) have overlapping 3x3 convolutions and no gate.
        num_classes: Number of classes of the classifier; 0 omits its head.

    >>> VMamba((1, 1, 1, 1), dim=16, states=2, mlp_ratio=0, vanilla=True, num_classes=5)(torch.rand(1, 3, 64, 64)).shape
    torch.Size([1, 5])
    """

    def __init__(
        self,
        depths: tuple[int, ...],
        dim: int = 96,
        states: int = 1,
        ssm_ratio: float = 2.0,
        mlp_ratio: float = 4.0,
        vanilla: bool = False,
        num_classes: int = 1000,
        **_: Any,  # timm passes its generic arguments (in_chans, img_size, ...) to every model
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.patch_embed = _patch_embed(dim, overlapping=not vanilla)
        ssm = {"states": states, "ratio": ssm_ratio, "gated": vanilla, "conv_bias": vanilla}
        self.layers = nn.ModuleList()
        self.feature_info = []
        reduction = 4
        for index, depth in enumerate(depths):
            channels, last = dim * 2**index, index == len(depths) - 1
            blocks = nn.Sequential(*(VSSBlock(channels, mlp_ratio, **ssm) for _ in range(depth)))
            downsample = nn.Identity() if last else _downsample(channels, overlapping=not vanilla)
            self.layers.append(nn.Sequential(OrderedDict(blocks=blocks, downsample=downsample)))
            channels, reduction = (channels, reduction) if last else (2 * channels, 2 * reduction)
            self.feature_info.append({"num_chs": channels, "reduction": reduction, "module": f"layers.{index}"})
        self.num_features = channels
        head = nn.Linear(channels, num_classes) if num_classes else nn.Identity()
        self.classifier = nn.Sequential(
            OrderedDict(
                norm=_layer_norm(channels),
                permute=_to_channels_first(),
                avgpool=nn.AdaptiveAvgPool2d(1),
                flatten=nn.Flatten(1),
                head=head,
            )
        )

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Computes features for timm: (B, 3, H, W) -> (B, C_i, H_i, W_i) for each index; ``norm`` is not supported."""
        if norm or output_fmt != "NCHW":
            raise ValueError("VMamba returns features only as NCHW and without a final norm.")
        take, _ = feature_take_indices(len(self.layers), indices)
        x = self.patch_embed(x)
        features = []
        for index, layer in enumerate(self.layers):
            x = layer(x)
            if index in take:
                features.append(x.permute(0, 3, 1, 2))
        return features if intermediates_only else (x, features)

    def forward_features(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x)
        for layer in self.layers:
            x = layer(x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        """Computes logits: (B, 3, H, W) -> (B, num_classes)."""
        return self.classifier(self.forward_features(x))


def checkpoint_filter_fn(state_dict: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Renames the keys of every released variant (v0, v2, and the one-file model) to those of this module.

    Linear weights stored as 1x1 convolutions are reshaped. No entry is invented, and none is dropped except the head
    where the model has none.
    """
    renamed = {}
    for key, value in state_dict.items():
        for old, new in _RENAMED:
            key = key.replace(old, new)
        key = _RENAMED_TOP_LEVEL.get(key.rsplit(".", 1)[0], key.rsplit(".", 1)[0]) + key[key.rfind(".") :]
        if key.endswith(("in_proj.weight", "out_proj.weight", "fc1.weight", "fc2.weight")):
            value = value.flatten(1)
        if key.endswith(("op.x_proj_weight", "op.dt_projs_weight")):
            value = value.reshape(DIRECTIONS, -1, value.shape[-1])
        elif key.endswith("op.dt_projs_bias"):
            value = value.reshape(DIRECTIONS, -1)
        if key.startswith("classifier.head.") and not getattr(model, "num_classes", 0):
            continue
        renamed[key] = value
    return renamed


_RENAMED = (
    (".ln_1.", ".norm."),
    (".self_attention.", ".op."),
    ("patch_embed.proj.", "patch_embed.0."),
    ("patch_embed.norm.", "patch_embed.2."),
    ("downsample.norm.", "downsample.1."),
    ("downsample.reduction.", "downsample.2."),
    ("op.x_proj.weight", "op.x_proj_weight"),
    ("op.dt_projs.weight", "op.dt_projs_weight"),
    ("op.dt_projs.bias", "op.dt_projs_bias"),
)
_RENAMED_TOP_LEVEL = {"norm": "classifier.norm", "head": "classifier.head"}


def _create(name: str, pretrained: bool, variant: dict[str, Any], **kwargs: Any) -> nn.Module:
    feature_cfg = {"out_indices": tuple(range(len(variant["depths"]))), "feature_cls": "getter"}
    return build_model_with_cfg(
        VMamba,
        name,
        pretrained,
        pretrained_filter_fn=checkpoint_filter_fn,
        feature_cfg=feature_cfg,
        **{**variant, **kwargs},
    )


_IMAGENET = {
    "num_classes": 1000,
    "input_size": (3, 224, 224),
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
    "first_conv": "patch_embed.0",
    "classifier": "classifier.head",
    "license": "mit",
}
default_cfgs = generate_default_cfgs(
    {f"vmamba_{name}.untrained": _IMAGENET for name in ("tiny_v0", "tiny_s2l5", "tiny_s1l8", "pico")}
)


@register_model
def vmamba_tiny_v0(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Vanilla-VMamba-T, the global teacher of PDD (82.2 % ImageNet top-1 as published)."""
    variant = {"depths": (2, 2, 9, 2), "states": 16, "mlp_ratio": 0.0, "vanilla": True}
    return _create("vmamba_tiny_v0", pretrained, variant, **kwargs)


@register_model
def vmamba_tiny_s2l5(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """VMamba-T[s2l5] (82.5 % as published)."""
    return _create("vmamba_tiny_s2l5", pretrained, {"depths": (2, 2, 5, 2)}, **kwargs)


@register_model
def vmamba_tiny_s1l8(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """VMamba-T[s1l8] (82.6 % as published)."""
    return _create("vmamba_tiny_s1l8", pretrained, {"depths": (2, 2, 8, 2), "ssm_ratio": 1.0}, **kwargs)


@register_model
def vmamba_pico(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Small v0 for tests and demonstrations; it has no trained weights."""
    variant = {"depths": (1, 1, 1, 1), "dim": 16, "states": 2, "mlp_ratio": 0.0, "vanilla": True}
    return _create("vmamba_pico", pretrained, variant, **kwargs)
