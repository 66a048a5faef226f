"""Every form of the selective scan against a loop in float64 that follows the formula word for word."""

import logging
import os
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import scripts.networks.selective_scan as selective_scan
from scripts.networks.selective_scan import DIRECTIONS, cpu_backends, cuda, eager, native, selective_scan_2d

FORMS = ["native", "numba", "torch"]
TOLERANCE = 1e-6  # of the largest value


def reference(x: Tensor, projected: Tensor, step_weight: Tensor, step_bias: Tensor, a: Tensor, d: Tensor) -> Tensor:
    """Direction by direction and token by token, in float64."""
    x, projected, step_weight, step_bias, a, d = (
        t.detach().double() for t in (x, projected, step_weight, step_bias, a, d)
    )
    batch, height, width, channels = x.shape
    rank, states = step_weight.shape[2], a.shape[2]
    rows = [(i, j) for i in range(height) for j in range(width)]
    columns = [(i, j) for j in range(width) for i in range(height)]
    y = torch.zeros_like(x)
    for k, order in enumerate([rows, columns, rows[::-1], columns[::-1]]):
        h = torch.zeros(batch, channels, states, dtype=torch.float64)
        for i, j in order:
            step, b, c = projected[:, i, j, k].split([rank, states, states], dim=-1)
            delta = F.softplus(step @ step_weight[k].T + step_bias[k]).unsqueeze(-1)
            h = torch.exp(delta * a[k]) * h + delta * b.unsqueeze(1) * x[:, i, j, :, None]
            y[:, i, j] += (h * c.unsqueeze(1)).sum(-1) + d[k] * x[:, i, j]
    return y


def case(
    batch: int,
    height: int,
    width: int,
    channels: int,
    states: int,
    bias: float = -2.0,
    rank: int = 3,
    dtype: torch.dtype = torch.float32,
) -> list[Tensor]:
    g = torch.Generator().manual_seed(states * 100 + height)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=dtype)

    return [
        normal(batch, height, width, channels),
        normal(batch, height, width, DIRECTIONS, rank + 2 * states),
        normal(DIRECTIONS, channels, rank),
        bias + normal(DIRECTIONS, channels),
        -torch.exp(normal(DIRECTIONS, channels, states)),
        normal(DIRECTIONS, channels),
    ]


def error(found: Tensor, expected: Tensor) -> float:
    assert found.isfinite().all()
    return ((found.double() - expected).abs().max() / expected.abs().max()).item()


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest) -> selective_scan.Scan:
    found = cpu_backends()
    if request.param not in found:
        pytest.skip("there is no C compiler here" if request.param == "native" else "Numba is not installed")
    return found[request.param]


@pytest.mark.parametrize("states", [1, 3, 16, 64])
@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (5, 1), (4, 6)])
# exp(-20): nothing is forgotten; -2: usual; 60: everything is, exp(delta a) underflows
@pytest.mark.parametrize("bias", [-20.0, -2.0, 60.0])
def test_equals_the_float64_loop(form: selective_scan.Scan, states: int, shape: tuple[int, int], bias: float) -> None:
    arguments = case(2, *shape, 5, states, bias)
    assert error(form(*arguments), reference(*arguments)) < TOLERANCE


@pytest.mark.parametrize("states", [1, 16])
@pytest.mark.parametrize("channels", [1, 16, 33, 64, 96, 200])  # below, at and beyond widths of vectors and blocks
def test_any_number_of_channels(form: selective_scan.Scan, states: int, channels: int) -> None:
    arguments = case(1, 3, 4, channels, states)
    assert error(form(*arguments), reference(*arguments)) < TOLERANCE


@pytest.mark.parametrize("states", [1, 16, 64])
@pytest.mark.parametrize("bias", [-12.0, 0.0])  # a memory of the whole image, and of a few pixels
def test_long_sequences(form: selective_scan.Scan, states: int, bias: float) -> None:
    arguments = case(1, 128, 128, 2, states, bias)  # L = 16384
    exact = eager.scan(*(t.double() for t in arguments))
    assert error(form(*arguments), exact) < 1e-5  # what float32 loses in sums of that many terms


def test_extreme_steps_and_decays(form: selective_scan.Scan) -> None:
    arguments = case(1, 6, 6, 8, 4)
    arguments[3] = torch.linspace(-200, 200, 32).view(4, 8)  # softplus from 0 to 200
    arguments[4] = -torch.logspace(-6, 6, 4).expand(4, 8, 4)
    assert error(form(*arguments), reference(*arguments)) < TOLERANCE


def test_nan_does_not_vanish(form: selective_scan.Scan) -> None:
    arguments = case(1, 4, 4, 8, 16)
    arguments[0][0, 0, 0, 3] = torch.nan
    broken = form(*arguments).isnan()
    assert broken[..., 3].all()  # every pixel is scanned after this one in some direction
    assert not broken[..., :3].any()
    arguments = case(1, 4, 4, 8, 16)
    arguments[1][0, 0, 0] = torch.nan
    assert form(*arguments).isnan().all()


def test_bfloat16_is_rounded_once(form: selective_scan.Scan) -> None:
    x, *others = case(2, 5, 4, 32, 16)
    half = form(x.bfloat16(), *others)
    assert half.dtype == torch.bfloat16
    exact = reference(x.bfloat16(), *others)
    assert ((half.double() - exact).abs() <= exact.abs() * 2**-8 + 1e-5).all()


def test_views_are_taken_as_they_are(form: selective_scan.Scan) -> None:
    x, projected, *others = case(2, 5, 4, 32, 2)
    wide = torch.stack([x, -x], dim=-1).flatten(3)  # every second channel is x
    padded = F.pad(projected, (1, 2))
    views = [wide[..., ::2], padded[..., 1:-2], *others]
    torch.testing.assert_close(form(*views), form(x, projected, *others), rtol=0, atol=0)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_do_not_show(form: selective_scan.Scan, threads: int) -> None:
    arguments = case(3, 6, 6, 200, 16)
    before = torch.get_num_threads()
    expected = form(*arguments)
    try:
        torch.set_num_threads(threads)
        torch.testing.assert_close(form(*arguments), expected, rtol=0, atol=0)
    finally:
        torch.set_num_threads(before)


def test_chunks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = case(2, 6, 5, 4, 2, dtype=torch.float64)
    monkeypatch.setattr(eager, "_CHUNK_ELEMENTS", 1)
    torch.testing.assert_close(selective_scan_2d(*arguments), reference(*arguments), rtol=1e-12, atol=1e-12)
    monkeypatch.setattr(eager, "_CHUNK_ELEMENTS", 7 * 2 * 4 * 2 * 4)  # does not divide the length
    torch.testing.assert_close(selective_scan_2d(*arguments), reference(*arguments), rtol=1e-12, atol=1e-12)


def test_gradients_are_right() -> None:
    arguments = [t.requires_grad_() for t in case(1, 2, 3, 2, 2, dtype=torch.float64)]
    assert torch.autograd.gradcheck(selective_scan_2d, arguments)


def test_float32_with_a_gradient_is_the_same_as_without() -> None:
    arguments = case(1, 4, 4, 16, 16)
    with_gradient = selective_scan_2d(arguments[0].requires_grad_(), *arguments[1:])
    with torch.no_grad():
        without = selective_scan_2d(*arguments)
    assert with_gradient.requires_grad
    assert not without.requires_grad
    torch.testing.assert_close(with_gradient, without, rtol=1e-5, atol=1e-5)


def test_traced_is_the_same_at_another_batch_size() -> None:
    traced = torch.jit.trace(selective_scan_2d, tuple(case(1, 4, 4, 3, 2)), check_trace=False)
    arguments = case(3, 4, 4, 3, 2)
    torch.testing.assert_close(traced(*arguments), selective_scan_2d(*arguments))


def test_autocast_keeps_the_scan_in_float32() -> None:
    arguments = case(1, 4, 4, 3, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = selective_scan_2d(*arguments)
    assert inside.dtype == torch.float32
    torch.testing.assert_close(inside, selective_scan_2d(*arguments), rtol=0, atol=0)


@pytest.fixture
def fresh() -> Iterator[None]:
    """Nothing remembered of what runs here, before and after."""

    def forget() -> None:
        for remembered in (selective_scan._backend, native.library, cuda.kernel):
            remembered.cache_clear()

    forget()
    yield
    forget()


@pytest.fixture
def no_compiler(fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CC", raising=False)


@pytest.mark.usefixtures("no_compiler")
def test_without_a_compiler_numba_takes_over_and_says_why(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        name, _ = selective_scan.backend("cpu")
    assert name == "numba"
    assert "no C compiler was found" in caplog.text


@pytest.mark.usefixtures("no_compiler")
def test_without_compiler_and_numba_pytorch_takes_over_and_says_why(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delitem(sys.modules, "scripts.networks.selective_scan.jit", raising=False)
    monkeypatch.delattr(selective_scan, "jit", raising=False)
    monkeypatch.setitem(sys.modules, "numba", None)
    with caplog.at_level(logging.WARNING):
        name, scan = selective_scan.backend("cpu")
    assert name == "torch"
    assert scan is eager.scan
    assert "no C compiler" in caplog.text
    assert "numba" in caplog.text


def test_a_compiler_that_fails_is_named_with_its_message(
    fresh: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken = tmp_path / "cc"
    broken.write_text("#!/bin/sh\necho 'cc: something is wrong' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CC", str(broken))
    with caplog.at_level(logging.WARNING):
        name, _ = selective_scan.backend("cpu")
    assert name == "numba"
    assert "something is wrong" in caplog.text


def test_it_is_built_once(fresh: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    native.library()
    (built,) = (tmp_path / "medical_anomaly_pdd").iterdir()
    made = built.stat().st_mtime_ns
    native.library.cache_clear()
    native.library()
    assert [path.stat().st_mtime_ns for path in (tmp_path / "medical_anomaly_pdd").iterdir()] == [made]


def test_a_folder_that_cannot_be_written_is_a_reason(
    fresh: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(RuntimeError, match="cannot be written"):
        native.library()


def test_the_environment_chooses(fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SELECTIVE_SCAN", "torch")
    assert selective_scan.backend("cpu") == ("torch", eager.scan)
    monkeypatch.setenv("SELECTIVE_SCAN", "fast")
    with pytest.raises(ValueError, match="SELECTIVE_SCAN=fast .* native, numba, torch"):
        selective_scan.backend("cpu")
    monkeypatch.setenv("SELECTIVE_SCAN", "mamba_ssm")
    monkeypatch.setitem(sys.modules, "mamba_ssm", None)
    with pytest.raises(ValueError, match="mamba-ssm is not installed"):
        selective_scan.backend("cuda")


def test_a_gpu_without_mamba_ssm_takes_pytorch_and_says_why(
    fresh: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "mamba_ssm", None)
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "scripts.networks.selective_scan.triton_kernel", raising=False)
    monkeypatch.delattr(selective_scan, "triton_kernel", raising=False)
    with caplog.at_level(logging.WARNING):
        name, _ = selective_scan.backend("cuda")
    assert name == "torch"
    assert "mamba-ssm is not installed" in caplog.text
    assert "triton" in caplog.text


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without a GPU")
def test_a_triton_kernel_that_does_not_run_is_not_taken(
    fresh: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "mamba_ssm", None)
    with caplog.at_level(logging.WARNING):
        name, _ = selective_scan.backend("cuda")
    assert name == "torch"
    assert "the Triton kernel does not run" in caplog.text or "triton" in caplog.text


TRITON = """
import sys
import torch
sys.path.insert(0, sys.argv[1])
from test_selective_scan import case, error, reference
from scripts.networks.selective_scan import triton_kernel

for *shape, bias in ((2, 3, 4, 5, 3, -20.0), (1, 1, 7, 33, 16, -2.0), (2, 5, 2, 8, 1, 60.0)):
    arguments = case(*shape, bias)
    print(error(triton_kernel.scan(*arguments), reference(*arguments)))
print(triton_kernel.scan(arguments[0].bfloat16(), *arguments[1:]).dtype)
triton_kernel.check("cpu")
"""


def test_triton_equals_the_float64_loop_in_its_interpreter() -> None:
    """There may be no GPU; Triton can run a kernel without, operation by operation."""
    pytest.importorskip("triton", reason="Triton comes with torch's CUDA builds")
    found = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", TRITON, str(Path(__file__).parent)],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    assert [float(value) < TOLERANCE for value in found[:3]] == [True] * 3
    assert found[3] == "torch.bfloat16"


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("dtype", ["*fp32", "*bf16"])
def test_triton_compiles_for_gpus_that_are_not_here(capability: int, dtype: str) -> None:
    triton = pytest.importorskip("triton", reason="Triton comes with torch's CUDA builds")
    from triton.backends.compiler import GPUTarget

    from scripts.networks.selective_scan import triton_kernel

    constants = {"rank": 6, "states": 16, "padded_rank": 8, "padded_states": 16, "block": 32}
    signature = {"x": dtype}
    signature |= dict.fromkeys(("projected", "step_weight", "step_bias", "a", "y"), "*fp32")
    signature |= dict.fromkeys(("height", "width", "channels"), "i32") | dict.fromkeys(constants, "constexpr")
    source = triton.compiler.ASTSource(fn=triton_kernel._scan, signature=signature, constexprs=constants)
    assert triton.compile(source, target=GPUTarget("cuda", capability, 32)).asm["cubin"]


def test_mamba_ssm_gets_its_own_layout(fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
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
    arguments = case(2, 3, 4, 5, 2)
    assert error(cuda.scan(*arguments), reference(*arguments)) < TOLERANCE


def test_all_cpu_forms_are_tested_where_they_must_be() -> None:
    if "REQUIRE_PROGRAMS" in os.environ:
        assert list(cpu_backends()) == FORMS
