"""What can be done once with weights that no longer change.

Batch normalisation in evaluation mode multiplies and adds constants: they go into the convolution before it.
"""

import itertools
import logging
from typing import Any

import torch
from torch import nn
from torch.fx.experimental.optimization import fuse
from torch.nn.utils.fusion import fuse_conv_bn_eval

logger = logging.getLogger(__name__)


def folded(module: nn.Module) -> nn.Module:
    """A copy of a backbone with batch normalisations folded as far as torch can follow its code; itself if it cannot.

    For modules in evaluation mode that stay in it.
    """
    if not any(isinstance(child, nn.BatchNorm2d) for child in module.modules()):
        return module
    try:
        return fuse(module)
    except Exception as error:  # tracing runs the backbone's own code, which may do anything
        logger.info("Batch normalisations of %s are not folded: %s", type(module).__name__, error)
        return module


def keep_bfloat16_weights(module: nn.Module) -> None:
    """Makes the weights of convolutions and linear layers bfloat16, in place, for modules that only run in autocast.

    That computes with the same numbers, but makes them anew in each call: of single images a third of the time.
    """
    for child in module.modules():
        if isinstance(child, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            child.to(torch.bfloat16)


def fold_sequences(module: nn.Module) -> None:
    """Folds, in place, each batch normalisation that follows a convolution, plain or transposed, in a ``Sequential``.

    For modules in evaluation mode that stay in it.
    """
    for sequence in module.modules():
        if not isinstance(sequence, nn.Sequential):
            continue
        for (name, convolution), (next_name, norm) in itertools.pairwise(list(sequence.named_children())):
            if isinstance(convolution, nn.Conv2d | nn.ConvTranspose2d) and isinstance(norm, nn.BatchNorm2d):
                transposed: Any = isinstance(convolution, nn.ConvTranspose2d)
                setattr(sequence, name, fuse_conv_bn_eval(convolution, norm, transpose=transposed))
                setattr(sequence, next_name, nn.Identity())
