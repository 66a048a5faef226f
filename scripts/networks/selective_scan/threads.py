"""Threads for compiled code that releases Python's lock, as many as torch uses."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch


def on_all_threads(work: Callable[[], None], at_most: int) -> None:
    """Calls ``work`` in ``torch.get_num_threads()`` threads, or in ``at_most`` if that is fewer, and waits for all.

    The threads are started anew each time, at 50 us each: a pool would not survive the forks of data loaders.
    """
    threads = min(torch.get_num_threads(), at_most)
    if threads <= 1:
        work()
        return
    with ThreadPoolExecutor(threads - 1) as pool:
        others = [pool.submit(work) for _ in range(threads - 1)]
        work()
        for other in others:
            other.result()
