"""Least work of a selective scan, against counts by hand and by a loop that does it."""

import itertools

import pytest

from bundle.benchmark.speed.floor import Layer, Rates, Work, floor_seconds, scan_layers, total, work


def test_one_token_of_one_channel_and_two_states_is_counted_by_hand() -> None:
    # 4 directions x 1 token x 1 channel x 2 states = 8 updates, each with delta*a, b*(delta*x), and a multiply-add for
    # h and one for y; each of 4 steps with 3 for its projection, delta*x, and two exponentials' worth of softplus; d*x
    # once. Read: x, 4 x 3 numbers of the steps, 4 x 2 b, 4 x 2 c = 29 floats. Written: 1.
    assert work(Layer(1, 1, 1, states=2, rank=3)) == Work(
        updates=8,
        exponentials=8 + 2 * 4,
        multiply_adds=4 * 8 + 4 * (3 + 1) + 1,
        bytes_in=116,
        bytes_out=4,
    )


@pytest.mark.parametrize("layer", [Layer(2, 3, 5, 4, 2), Layer(3, 1, 2, 1, 1)])
def test_the_counts_are_those_of_a_loop_that_counts_as_it_goes(layer: Layer) -> None:
    updates = exponentials = multiply_adds = 0
    read: set[tuple[object, ...]] = set()
    written: set[tuple[object, ...]] = set()
    for token in itertools.product(range(layer.height), range(layer.width)):
        for channel in range(layer.channels):
            read.add(("x", token, channel))
            written.add(("y", token, channel))
            multiply_adds += 1  # y += d x
            for direction in range(4):
                for number in range(layer.rank):
                    read.add(("step", token, direction, number))
                    multiply_adds += 1  # of the projection
                exponentials += 2  # softplus
                multiply_adds += 1  # delta x
                for state in range(layer.states):
                    read |= {(name, token, direction, state) for name in "bc"}
                    multiply_adds += 1  # delta a
                    exponentials += 1
                    multiply_adds += 3  # b (delta x), h = e h + ..., y += c h
                    updates += 1
    assert work(layer) == Work(updates, exponentials, multiply_adds, 4 * len(read), 4 * len(written))


def test_vmamba_t_v0_has_the_scans_of_its_paper_and_277_million_updates_an_image() -> None:
    layers = scan_layers("vmamba_tiny_v0", 256)
    # side, inner channels, rank, blocks
    stages = [(64, 192, 6, 2), (32, 384, 12, 2), (16, 768, 24, 9), (8, 1536, 48, 2)]
    assert layers == [Layer(side, side, channels, 16, rank) for side, channels, rank, n in stages for _ in range(n)]
    counted = total(layers)
    assert counted.updates == sum(4 * side**2 * channels * 16 * blocks for side, channels, _, blocks in stages)
    assert round(counted.updates / 1e6) == 277
    assert round((counted.exponentials - counted.updates) / 2e6, 1) == 17.3  # softpluses


@pytest.mark.parametrize(("name", "millions"), [("vmamba_tiny_s2l5", 14.2), ("vmamba_tiny_s1l8", 8.3)])
def test_the_later_variants_have_fewer_updates(name: str, millions: float) -> None:
    assert total(scan_layers(name, 256)).updates / 1e6 == pytest.approx(millions, abs=0.06)


def test_arithmetic_adds_up_and_memory_overlaps_with_it() -> None:
    scan = Work(updates=0, exponentials=100, multiply_adds=50, bytes_in=600, bytes_out=400)
    assert floor_seconds(scan, Rates(exponentials=10, multiply_adds=25, bytes=1000)) == pytest.approx(10 + 2)
    assert floor_seconds(scan, Rates(exponentials=10, multiply_adds=25, bytes=50)) == pytest.approx(20)
