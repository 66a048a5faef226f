"""How fast this machine does what a scan's floor is counted in."""

import torch

from bundle.benchmark.speed.measuring import Call, Case, timed

TAKEN_WITH = "torch"  # kernels of torch; a native micro-kernel, once there is one, belongs in the functions below
EXPONENTIALS, MULTIPLY_ADDS, BYTES = "rate: exponentials", "rate: multiply-adds", "rate: bytes"
_IN_CACHE = 2**15  # float32 values a thread, 128 KiB; torch gives a thread no less
_REPEATS = 500
_MATRIX = 1024
_IN_MEMORY = 2**26  # float32 values, 256 MiB: more than any cache holds


def rate_cases(device: torch.device, quick: bool = False) -> list[Case]:
    """Gives the cases whose rates are those of ``floor.Rates``.

    Args:
        device: that does it.
        quick: a thousandth of the work.
    """
    less = 1000 if quick else 1
    values = _IN_CACHE * torch.get_num_threads() if device.type == "cpu" else _IN_MEMORY // 4
    repeats = max(1, (_REPEATS if device.type == "cpu" else 20) // less)
    side, memory = (_MATRIX // 8, _IN_MEMORY // less) if quick else (_MATRIX, _IN_MEMORY)

    def exponentials() -> Call:
        numbers, result = torch.linspace(-8, 0, values, device=device), torch.empty(values, device=device)
        return timed(lambda: [torch.exp(numbers, out=result) for _ in range(repeats)], device)

    def multiply_adds() -> Call:
        left, right = torch.rand(2, side, side, device=device)
        result = torch.empty_like(left)
        return timed(lambda: [torch.mm(left, right, out=result) for _ in range(4)], device)

    def copied() -> Call:
        source, target = torch.rand(memory, device=device), torch.empty(memory, device=device)
        return timed(lambda: target.copy_(source), device)

    return [
        Case(EXPONENTIALS, "exponentials", values * repeats, exponentials),
        Case(MULTIPLY_ADDS, "multiply-adds", 4 * side**3, multiply_adds),
        Case(BYTES, "bytes", 2 * 4 * memory, copied),
    ]
