"""The selective scan against a loop in float64 that follows the formula word for word."""

import sys
import types

import pytest
import torch
from torch import Tensor

import scripts.networks.selective_scan as selective_scan
from scripts.networks.selective_scan import DIRECTIONS, selective_scan_2d


def reference(x: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """Direction by direction and token by token, in float64."""
    x, delta, a, b, c, d = (t.detach().double() for t in (x, delta, a, b, c, d))
    batch, height, width, channels = x.shape
    rows = [(i, j) for i in range(height) for j in range(width)]
    columns = [(i, j) for j in range(width) for i in range(height)]
    y = torch.zeros_like(x)
    for k, order in enumerate([rows, columns, rows[::-1], columns[::-1]]):
        h = torch.zeros(batch, channels, a.shape[2], dtype=torch.float64)
        for i, j in order:
            step = delta[:, i, j, k, :, None]
            h = torch.exp(step * a[k]) * h + step * b[:, i, j, k, None] * x[:, i, j, :, None]
            y[:, i, j] += (h * c[:, i, j, k, None]).sum(-1) + d[k] * x[:, i, j]
    return y


def case(
    batch: int, height: int, width: int, channels: int, states: int, step: float, dtype: torch.dtype
) -> list[Tensor]:
    g = torch.Generator().manual_seed(states * 100 + height)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=dtype)

    return [
        normal(batch, height, width, channels),
        step * torch.nn.functional.softplus(normal(batch, height, width, DIRECTIONS, channels)),
        -torch.exp(normal(DIRECTIONS, channels, states)),
        normal(batch, height, width, DIRECTIONS, states),
        normal(batch, height, width, DIRECTIONS, states),
        normal(DIRECTIONS, channels),
    ]


@pytest.mark.parametrize("states", [1, 3, 16])
@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (5, 1), (4, 6)])
@pytest.mark.parametrize("step", [1e-4, 0.1, 50.0])  # nothing forgotten, usual, everything forgotten
def test_equals_the_float64_loop(states: int, shape: tuple[int, int], step: float) -> None:
    arguments = case(2, *shape, 5, states, step, torch.float32)
    expected = reference(*arguments)
    error = (selective_scan_2d(*arguments).double() - expected).abs().max() / expected.abs().max()
    assert error < 1e-6


def test_chunks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = case(2, 6, 5, 4, 2, 0.1, torch.float64)
    monkeypatch.setattr(selective_scan, "_CHUNK_ELEMENTS", 1)
    torch.testing.assert_close(selective_scan_2d(*arguments), reference(*arguments), rtol=1e-12, atol=1e-12)
    monkeypatch.setattr(selective_scan, "_CHUNK_ELEMENTS", 7 * 2 * 4 * 2 * 4)  # does not divide the length
    torch.testing.assert_close(selective_scan_2d(*arguments), reference(*arguments), rtol=1e-12, atol=1e-12)


def test_gradients_are_right() -> None:
    arguments = [t.requires_grad_() for t in case(1, 2, 3, 2, 2, 0.5, torch.float64)]
    assert torch.autograd.gradcheck(selective_scan_2d, arguments)


def test_traced_is_the_same_at_another_batch_size() -> None:
    traced = torch.jit.trace(selective_scan_2d, tuple(case(1, 4, 4, 3, 2, 0.1, torch.float32)), check_trace=False)
    arguments = case(3, 4, 4, 3, 2, 0.2, torch.float32)
    torch.testing.assert_close(traced(*arguments), selective_scan_2d(*arguments))


def test_autocast_keeps_the_scan_in_float32() -> None:
    arguments = case(1, 4, 4, 3, 2, 0.1, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(selective_scan_2d(*arguments), selective_scan_2d(*arguments).float(), rtol=0, atol=0)
    half = selective_scan_2d(arguments[0].bfloat16(), *arguments[1:])
    assert half.dtype == torch.bfloat16


def test_mamba_ssm_gets_its_own_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    """mamba-ssm's interface needs a GPU, so a CPU stand-in with its documented signature and layout takes its place."""

    def selective_scan_fn(u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        assert u.is_contiguous()
        batch, dim, length = u.shape
        groups = b.shape[1]
        b, c = (t.repeat_interleave(dim // groups, dim=1) for t in (b, c))  # (B, dim, N, L)
        h, out = torch.zeros(batch, dim, a.shape[1]), torch.empty_like(u)
        for t in range(length):
            h = torch.exp(delta[..., t, None] * a) * h + (delta * u)[..., t, None] * b[..., t]
            out[..., t] = (h * c[..., t]).sum(-1)
        return out

    module = types.ModuleType("mamba_ssm.ops.selective_scan_interface")
    module.selective_scan_fn = selective_scan_fn  # type: ignore[attr-defined]
    for name in ("mamba_ssm", "mamba_ssm.ops"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    selective_scan._cuda_kernel.cache_clear()
    try:
        kernel = selective_scan._cuda_kernel()
    finally:
        selective_scan._cuda_kernel.cache_clear()
    assert kernel is not None
    x, delta, a, b, c, _ = case(2, 3, 4, 5, 2, 0.3, torch.float32)
    inputs = x.unsqueeze(3).expand(-1, -1, -1, DIRECTIONS, -1)
    sequences = [selective_scan._cross_scan(t) for t in (inputs, delta, b, c)]
    torch.testing.assert_close(kernel(*sequences, a), selective_scan._scan_torch(*sequences, a))


def test_without_mamba_ssm_there_is_no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mamba_ssm", None)
    selective_scan._cuda_kernel.cache_clear()
    assert selective_scan._cuda_kernel() is None
    selective_scan._cuda_kernel.cache_clear()
