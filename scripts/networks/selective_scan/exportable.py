"""Recurrence of the selective scan for torch.export and ONNX: one node instead of L steps.

``torch.export`` unrolls Python loops, here into thousands of steps a block. torch's higher-order ``scan`` stays one
node, which becomes ONNX's ``Scan``. It takes the same steps in the same order as the eager loop, so it is exact for any
step size too.
"""

import torch
from torch import Tensor
from torch._higher_order_ops.scan import scan  # no public name in torch 2.14, but torch.onnx translates it


def exportable_scan(x: Tensor, delta: Tensor, b: Tensor, c: Tensor, a: Tensor) -> Tensor:
    """Recurrence of ``selective_scan_2d`` over sequences of any length and batch size.

    Args:
        x: Input, (L, 4, B, D).
        delta: Step sizes, (L, 4, B, D).
        b: Input matrix, (L, 4, B, N).
        c: Output matrix, (L, 4, B, N).
        a: State matrix, (4, D, N), negative.

    Returns:
        Output without skip connection, (L, 4, B, D).
    """
    decay = a.permute(2, 0, 1).contiguous()  # (N, 4, D): the many channels last, for vector loops

    def step(h: Tensor, inputs: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        size, update, b_t, c_t = inputs  # (B, 4, D) twice, (B, N, 4) twice
        h = torch.exp(size.unsqueeze(1) * decay) * h + update.unsqueeze(1) * b_t.unsqueeze(3)
        return h, (h * c_t.unsqueeze(3)).sum(1)

    # scan requires every carry to have the strides of the first, so all are contiguous with the batch in front.
    sizes = delta.transpose(1, 2).contiguous()
    updates = sizes * x.transpose(1, 2).contiguous()
    shared = [values.permute(0, 2, 3, 1).contiguous() for values in (b, c)]
    start = torch.zeros_like(sizes[0]).unsqueeze(1).repeat(1, a.shape[2], 1, 1)  # (B, N, 4, D)
    _, y = scan(step, start, (sizes, updates, *shared))
    return y.transpose(1, 2)
