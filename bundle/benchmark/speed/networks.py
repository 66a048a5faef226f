"""Measures whole networks: training, inference, and each teacher alone."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import timm
import torch

from bundle.benchmark.speed.measuring import Call, Case, timed
from bundle.benchmark.speed.methods import METHODS, PRECISIONS, Method, made_up_images
from bundle.benchmark.speed.settings import BATCHES, Settings, images_a_call, named
from scripts.networks import Teacher

TEACHERS = ("wide_resnet50_2", "vmamba_tiny_v0", "vmamba_tiny_s2l5", "vmamba_tiny_s1l8")
PLAIN = "wide_resnet50_2"  # measured as timm builds it, too
_PLAIN_LEVELS = (1, 2, 3, 4)  # levels that a Teacher takes
_SMALL_TEACHERS, _SMALL_PLAIN = ("test_resnet", "vmamba_pico"), "test_resnet"


def training(settings: Settings) -> list[Case]:
    """Cases of a first epoch, with an empty feature cache, and of a later one, in which the teachers do not run."""
    cases = []
    for name in METHODS:
        method = _Lazy(partial(settings.method, name))
        for batch_size in BATCHES:
            for precision, amp in PRECISIONS.items():
                cases += [
                    Case(
                        named(f"{name} {epoch} epoch", batch_size, precision),
                        "images",
                        images_a_call(batch_size),
                        partial(prepare, method, batch_size, amp),
                    )
                    for epoch, prepare in (("first", _first_epoch), ("cached", _cached_epoch))
                ]
    return cases


def inference(settings: Settings) -> list[Case]:
    """Cases from images to anomaly maps, in eager mode."""
    cases = []
    for name in METHODS:
        method = _Lazy(partial(settings.method, name))
        cases += [
            Case(
                named(f"{name} inference", batch_size, precision),
                "images",
                batch_size,
                partial(_inference, method, batch_size, amp),
            )
            for batch_size in BATCHES
            for precision, amp in PRECISIONS.items()
        ]
    return cases


def teachers(settings: Settings) -> list[Case]:
    """Cases of each teacher alone, and of the plain timm model that others would use."""
    names, plain = (_SMALL_TEACHERS, _SMALL_PLAIN) if settings.quick else (TEACHERS, PLAIN)
    makers: dict[str, Callable[[], torch.nn.Module]] = {
        name: partial(Teacher, name, weights="untrained") for name in names
    }
    makers[f"plain timm {plain}"] = partial(timm.create_model, plain, features_only=True, out_indices=_PLAIN_LEVELS)
    cases = []
    for name, make in makers.items():
        network = _Lazy(partial(_frozen, make, settings.device))
        cases += [
            Case(
                named(name, batch_size, precision),
                "images",
                batch_size,
                partial(_forward, network, batch_size, amp, settings),
            )
            for batch_size in BATCHES
            for precision, amp in PRECISIONS.items()
        ]
    return cases


class _Lazy:
    """Object that several cases share, built when the first of them is prepared."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make, self._made = make, None

    def __call__(self) -> Any:
        if self._made is None:
            self._made = self._make()
        return self._made


def _frozen(make: Callable[[], torch.nn.Module], device: torch.device) -> torch.nn.Module:
    return make().to(device).eval()


def _first_epoch(method: Callable[[], Method], batch_size: int, amp: bool) -> Call:
    trainer = method().trainer(images_a_call(batch_size), batch_size, amp)
    empty = copy.deepcopy(trainer.feature_cache)  # a cache on disk would also need a new folder
    epoch = timed(trainer.run, method().device)

    def call() -> float:
        trainer.feature_cache = copy.deepcopy(empty)
        return epoch()

    return call


def _cached_epoch(method: Callable[[], Method], batch_size: int, amp: bool) -> Call:
    trainer = method().trainer(images_a_call(batch_size), batch_size, amp)
    trainer.run()
    return timed(trainer.run, method().device)


def _inference(method: Callable[[], Method], batch_size: int, amp: bool) -> Call:
    return timed(method().inference(batch_size, amp), method().device)


def _forward(network: Callable[[], torch.nn.Module], batch_size: int, amp: bool, settings: Settings) -> Call:
    images = torch.stack([image.as_tensor() for image in made_up_images(batch_size, settings.image_size)])
    images, forward = images.to(settings.device), network()

    def run() -> None:
        with torch.no_grad(), torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=amp):
            forward(images)

    return timed(run, images.device)
