"""Measures anomalib's ReverseDistillation and PatchCore in their own environment; imports none of our code.

Run with {"device", "image_size", "threads", "quick"} as JSON. From then on each line on standard input is a question as
JSON, and each line on standard output its answer: {"seconds": ...} or {"error": text}. Ends when the input ends.

{"do": "versions"}                                                     -> {"versions": {...}, "method": {...}}
{"do": "train", "batch": 8, "images": 16, "amp": false}                -> training steps over so many images
{"do": "infer", "model": "ReverseDistillation", "batch": 8, "amp": false}    -> anomaly maps of one batch
{"do": "exported", "runtime": "openvino", "amp": false}                -> one image, by anomalib's own export
"""

import functools
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

BACKBONE, QUICK_BACKBONE = "wide_resnet50_2", "resnet18"
LAYERS = {"ReverseDistillation": ("layer1", "layer2", "layer3"), "PatchCore": ("layer2", "layer3")}
CORESET_RATIO = 0.1  # fraction of the patches; anomalib's default
MEMORY_IMAGES = 16
PACKAGES = ("anomalib", "lightning", "torch", "torchvision", "timm", "numpy", "onnxruntime", "openvino")


class Anomalib:
    """Models of anomalib, each built when first asked for."""

    def __init__(self, device: str, image_size: int, threads: int, quick: bool) -> None:
        import torch

        torch.set_num_threads(threads)
        torch.manual_seed(0)
        self.torch, self.device, self.size, self.threads = torch, torch.device(device), image_size, threads
        self.backbone = QUICK_BACKBONE if quick else BACKBONE
        self.folder = tempfile.TemporaryDirectory()
        self.runtimes: dict[tuple[str, bool], Callable[[Any], Any]] = {}

    def versions(self) -> dict[str, Any]:
        method = {
            "backbone": f"{self.backbone}, random weights",
            "training": "training_step, backward, and a step of the Adam of configure_optimizers",
            "inference": "the torch model in evaluation mode, without anomalib's pre- and post-processor",
            "PatchCore": f"memory of {CORESET_RATIO:.0%} of the patches of {MEMORY_IMAGES} images, taken at random",
            "exports": "to_onnx and to_openvino at a fixed size, pre- and post-processor included",
        }
        return {"versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
                "method": method}  # fmt: skip

    def train(self, batch: int, images: int, amp: bool) -> dict[str, float]:
        from anomalib.data import ImageBatch

        module, optimizer = self._training
        module.train()
        batches = [ImageBatch(image=self._images(batch)) for _ in range(images // batch)]

        def steps() -> None:
            for one in batches:
                optimizer.zero_grad(set_to_none=True)
                with self.torch.autocast(self.device.type, dtype=self.torch.bfloat16, enabled=amp):
                    loss = module.training_step(one)["loss"]
                loss.backward()
                optimizer.step()

        return self._seconds(steps)

    def infer(self, model: str, batch: int, amp: bool) -> dict[str, float]:
        network, images = self._patchcore if model == "PatchCore" else self._reverse_distillation, self._images(batch)

        def step() -> None:
            with (
                self.torch.no_grad(),
                self.torch.autocast(self.device.type, dtype=self.torch.bfloat16, enabled=amp),
            ):
                network(images).anomaly_map  # noqa: B018

        return self._seconds(step)

    def exported(self, runtime: str, amp: bool) -> dict[str, float]:
        if (runtime, amp) not in self.runtimes:
            self.runtimes[runtime, amp] = self._compiled(runtime, amp)
        run, images = self.runtimes[runtime, amp], self._images(1).cpu().numpy()
        return self._seconds(lambda: run(images))

    def _seconds(self, work: Callable[[], Any]) -> dict[str, float]:
        self._wait()
        started = time.perf_counter()
        work()
        self._wait()
        return {"seconds": time.perf_counter() - started}

    def _wait(self) -> None:
        if self.device.type == "cuda":
            self.torch.cuda.synchronize(self.device)

    def _images(self, count: int) -> Any:
        return self.torch.rand(count, 3, self.size, self.size).to(self.device)

    def _module(self, model: str, **options: Any) -> Any:
        from anomalib import models

        kind = {"ReverseDistillation": models.ReverseDistillation, "PatchCore": models.Patchcore}[model]
        return kind(
            backbone=self.backbone,
            layers=LAYERS[model],
            pre_trained=False,
            pre_processor=kind.configure_pre_processor((self.size, self.size)),
            evaluator=False,
            visualizer=False,
            **options,
        ).to(self.device)

    @functools.cached_property
    def _training(self) -> Any:
        module = self._module("ReverseDistillation")
        return module, module.configure_optimizers()

    @functools.cached_property
    def _reverse_distillation(self) -> Any:
        return self._module("ReverseDistillation").model.eval()

    @functools.cached_property
    def _patchcore(self) -> Any:
        network = self._module("PatchCore").model.train()
        network.feature_extractor.eval()
        with self.torch.no_grad():
            patches = self.torch.vstack([network(self._images(8)) for _ in range(MEMORY_IMAGES // 8)])
        network.embedding_store.clear()
        # The choice of patches does not change the speed, and anomalib's way of choosing takes 9 GB and more.
        network.memory_bank = patches[self.torch.randperm(len(patches))[: int(CORESET_RATIO * len(patches))]]
        return network.eval()

    @functools.cached_property
    def _files(self) -> dict[str, Any]:
        module = self._module("ReverseDistillation").cpu().eval()
        size = (self.size, self.size)
        return {
            "onnxruntime": module.to_onnx(f"{self.folder.name}/onnx", input_size=size),
            "openvino": module.to_openvino(f"{self.folder.name}/openvino", input_size=size),
        }

    def _compiled(self, runtime: str, amp: bool) -> Callable[[Any], Any]:
        file = str(self._files[runtime])
        if runtime == "openvino":
            import openvino

            core = openvino.Core()
            settings = {
                "INFERENCE_PRECISION_HINT": "bf16" if amp else "f32",
                "INFERENCE_NUM_THREADS": self.threads,
                "PERFORMANCE_HINT": "LATENCY",
            }
            return core.compile_model(file, "CPU", settings)
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        (given,) = session.get_inputs()
        return lambda images: session.run(None, {given.name: images})


def answer(anomalib: Anomalib, question: dict[str, Any]) -> dict[str, Any]:
    """Answers a question; an error becomes the answer."""
    do = question.pop("do")
    try:
        if do not in ("versions", "train", "infer", "exported"):
            raise ValueError(f"unknown question {do!r}")
        return getattr(anomalib, do)(**question)
    except Exception as error:
        return {"error": f"{type(error).__name__}: {' '.join(str(error).split())}"[:500]}


def main() -> None:
    """Answers until the input ends."""
    # Standard output is for answers alone; what libraries print goes to standard error.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    anomalib = Anomalib(**json.loads(sys.argv[1]))
    for line in sys.stdin:
        print(json.dumps(answer(anomalib, json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
