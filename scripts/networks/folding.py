"""Speed-ups for weights that no longer change.

Batch normalisation in evaluation mode multiplies by constants and adds constants, so it folds into the convolution
before it.
"""

import copy
import itertools
import logging
from typing import Any

import torch
from torch import nn
from torch.fx.experimental.optimization import fuse
from torch.nn.utils.fusion import fuse_conv_bn_eval

logger = logging.getLogger(__name__)


def folded(module: nn.Module) -> nn.Module:
    """Copy of a backbone with folded batch normalisations, or the backbone itself where that would change its features.

    The backbone must be in evaluation mode and stay there.
    """
    if not any(isinstance(child, nn.BatchNorm2d) for child in module.modules()):
        return module
    try:
        return fuse(module)
    except Exception:  # tracing runs the backbone's own code, which can raise anything
        return _folded_siblings(module)


def _folded_siblings(module: nn.Module) -> nn.Module:
    """Copy in which each batch normalisation is folded into the convolution that its parent holds just before it.

    Whether the data flow so too only the features tell: the copy is dropped if they differ from the module's.
    """
    copied = copy.deepcopy(module)
    for parent in copied.modules():
        for (name, convolution), (next_name, norm) in itertools.pairwise(list(parent.named_children())):
            if not isinstance(convolution, nn.Conv2d) or not isinstance(norm, nn.BatchNorm2d):
                continue
            if norm.num_features == convolution.out_channels:
                setattr(parent, name, fuse_conv_bn_eval(convolution, norm))
                setattr(parent, next_name, getattr(norm, "act", nn.Identity()))  # timm's normalisation may end in one
    image = torch.linspace(-1, 1, 3 * 64 * 64).sin().view(1, 3, 64, 64)
    with torch.no_grad():
        pairs = zip(copied(image), module(image), strict=True)
        if all(torch.allclose(ours, exact, atol=1e-3 * float(exact.std())) for ours, exact in pairs):
            return copied
    logger.info("Batch normalisations of %s are not folded, as it uses them in another order.", type(module).__name__)
    return module


def keep_bfloat16_weights(module: nn.Module) -> None:
    """Converts the weights of convolutions and linear layers to bfloat16, in place, for modules run only in autocast.

    The results stay the same: autocast would convert the weights in each call, a third of the time of a single image.
    """
    for child in module.modules():
        if isinstance(child, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            child.to(torch.bfloat16)


def fold_sequences(module: nn.Module) -> None:
    """Folds batch normalisations into the (transposed) convolution before them in a ``Sequential``, in place.

    The module must be in evaluation mode and stay there.
    """
    for sequence in module.modules():
        if not isinstance(sequence, nn.Sequential):
            continue
        for (name, convolution), (next_name, norm) in itertools.pairwise(list(sequence.named_children())):
            if isinstance(convolution, nn.Conv2d | nn.ConvTranspose2d) and isinstance(norm, nn.BatchNorm2d):
                transposed: Any = isinstance(convolution, nn.ConvTranspose2d)
                setattr(sequence, name, fuse_conv_bn_eval(convolution, norm, transpose=transposed))
                setattr(sequence, next_name, nn.Identity())
