"""Runs compiled code, which releases Python's lock, on as many threads as torch computes with."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch


def on_all_threads(work: Callable[[], None], at_most: int) -> None:
    """Calls ``work`` in ``torch.get_num_threads()`` threads, but not in more than ``at_most``, and waits for all.

    The threads are made anew each time, 50 us each: kept ones would not survive a fork, as data loaders do it.
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
