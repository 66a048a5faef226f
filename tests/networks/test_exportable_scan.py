"""The selective scan, exported to ONNX and run by ONNX Runtime and OpenVINO, against the loop in float64."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import openvino
import pytest
import torch
from torch import Tensor, nn

from scripts.networks.selective_scan import DIRECTIONS, selective_scan_2d
from tests.networks.test_selective_scan import case, reference

CHANNELS = 5
BIASES = (-20.0, -2.0, 60.0, 1e4)  # nothing forgotten, usual, everything forgotten, a decay of exactly 0
TOLERANCES = {"onnxruntime": 1e-6, "openvino": 1e-4}  # OpenVINO's softplus of -20 has four digits
Runner = Callable[[list[np.ndarray]], np.ndarray]


class Scan(nn.Module):
    """With what are weights in a network as weights; the bias of the steps is an input, to be varied."""

    def __init__(self, step_weight: Tensor, a: Tensor, d: Tensor) -> None:
        super().__init__()
        self.register_buffer("step_weight", step_weight)
        self.register_buffer("a", a)
        self.register_buffer("d", d)

    def forward(self, x: Tensor, projected: Tensor, step_bias: Tensor) -> Tensor:
        return selective_scan_2d(x, projected, self.step_weight, step_bias, self.a, self.d)


def exported(path: Path, height: int, width: int, states: int) -> dict[str, Runner]:
    """What runs the file in each runtime, with the weights of ``case``."""
    x, projected, step_weight, step_bias, a, d = case(2, height, width, CHANNELS, states)
    batch = {0: torch.export.Dim("batch")}
    program = torch.onnx.export(
        Scan(step_weight, a, d).eval(),
        (x, projected, step_bias),
        dynamo=True,
        dynamic_shapes=(batch, batch, None),
        verbose=False,
    )
    assert program is not None
    assert [node.op_type for node in program.model.graph].count("Scan") == 1
    program.save(path)
    session = onnxruntime.InferenceSession(str(path))
    names = [value.name for value in session.get_inputs()]
    compiled = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return {
        "onnxruntime": lambda arrays: session.run(None, dict(zip(names, arrays, strict=True)))[0],
        "openvino": lambda arrays: compiled(arrays)[0],
    }


@pytest.mark.parametrize(("shape", "states"), [((1, 1), 1), ((7, 1), 3), ((5, 6), 2), ((4, 4), 16)])
def test_equals_the_float64_loop_for_any_length_step_and_batch(
    shape: tuple[int, int], states: int, tmp_path: Path
) -> None:
    runners = exported(tmp_path / "scan.onnx", *shape, states)
    for bias in BIASES:
        for batch in (1, 3):
            x, projected, step_weight, step_bias, a, d = case(2, *shape, CHANNELS, states, bias)
            rows = torch.arange(batch) % 2  # ``case`` draws its weights behind the batch
            x, projected = x[rows], projected[rows]
            expected = reference(x, projected, step_weight, step_bias, a, d)
            for name, run in runners.items():
                got = torch.from_numpy(np.array(run([value.numpy() for value in (x, projected, step_bias)])))
                error = (got.double() - expected).abs().max() / expected.abs().max()
                assert error < TOLERANCES[name], (name, bias, batch)


def test_a_sequence_as_long_as_a_paper_sized_image_keeps_its_precision(tmp_path: Path) -> None:
    """64 x 64 tokens, of which the first still counts at the last: against the closed form of a constant decay."""
    side, decay = 64, 1 - 2.0**-12
    a = torch.full((DIRECTIONS, 1, 1), float(np.log(decay)))
    step_bias = torch.full((DIRECTIONS, 1), float(np.log(np.e - 1)))  # softplus gives 1
    scan = Scan(torch.zeros(DIRECTIONS, 1, 1), a, torch.zeros(DIRECTIONS, 1))
    arguments = (torch.ones(2, side, side, 1), torch.ones(2, side, side, DIRECTIONS, 3), step_bias)
    batch = {0: torch.export.Dim("batch")}
    program = torch.onnx.export(scan, arguments, dynamo=True, dynamic_shapes=(batch, batch, None), verbose=False)
    assert program is not None
    assert len(list(program.model.graph.all_nodes())) < 200  # not unrolled
    program.save(tmp_path / "scan.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "scan.onnx"))
    feed = [arguments[0][:1].numpy(), arguments[1][:1].numpy(), step_bias.numpy()]
    (got,) = session.run(None, dict(zip([value.name for value in session.get_inputs()], feed, strict=True)))
    rank = np.arange(side * side).reshape(side, side)
    orders = [rank, rank.T, rank[::-1, ::-1], rank.T[::-1, ::-1]]  # how many tokens came before, by direction
    expected = sum((1 - decay ** (order + 1.0)) / (1 - decay) for order in orders)
    np.testing.assert_allclose(got[0, :, :, 0], expected, rtol=2e-4)
