"""Scores of normal slices and of their altered copies, by one model."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from bundle.select.anomalies import altered
from scripts.anomaly_map import anomaly_score
from scripts.data.foreground import foreground_threshold
from scripts.model.folder import ModelFolder
from scripts.transforms.scoring import body_of

NORMAL = "normal"


class Scores(NamedTuple):
    """Scores of N slices by one model.

    Attributes:
        scores: For each pooling, those of the slices as they are, ``normal``, and with each kind of anomaly: (N,).
        patients: Patient of each slice, (N,).
    """

    scores: dict[str, dict[str, NDArray[np.float64]]]
    patients: NDArray[np.str_]


def scores_of(
    folder: ModelFolder, values: Mapping[str, Any], items: Sequence[dict[str, Any]], poolings: Sequence[str], seed: int
) -> Scores:
    """Scores slices as they are and with anomalies, as the model's evaluation would.

    A slice whose body has no room for an anomaly is left out.

    Args:
        folder: Model folder.
        values: Config values by id.
        items: Normal images, and slices of scans, those of a scan in a row.
        poolings: Poolings of the maps, see ``AnomalyScored``.
        seed: Seed of the anomalies.

    Raises:
        ValueError: If no slice has room for an anomaly, there is no such pooling, or a scan cannot be read.
    """
    for pooling in poolings:
        anomaly_score(torch.zeros(1, 1, 1, 1), pooling)  # refuses a wrong one before the work
    model = _Model(folder, values)
    found: dict[str, dict[str, list[Tensor]]] = {pooling: {} for pooling in poolings}
    patients: list[str] = []
    numbered = iter(enumerate(items))
    with tqdm(total=len(items), desc=str(folder.path), unit="slice") as bar:
        for file, slices in groupby(numbered, lambda one: one[1]["image"]):
            some = list(slices)
            maps, kept = model.maps(file, [(number, item.get("slice", 0)) for number, item in some], seed)
            patients += [some[place][1]["group"] for place in kept]
            for pooling in poolings:
                for kind, of_kind in maps.items():
                    found[pooling].setdefault(kind, []).append(anomaly_score(of_kind, pooling))
            bar.update(len(some))
    if not patients:
        raise ValueError(f"None of the {len(items)} normal slices has a body with room for an anomaly.")
    joined = {
        pooling: {kind: torch.cat(parts).double().numpy() for kind, parts in of_pooling.items()}
        for pooling, of_pooling in found.items()
    }
    return Scores(joined, np.array(patients))


class _Model:
    """What a model folder's evaluation maps and scores by, with its weights restored."""

    def __init__(self, folder: ModelFolder, values: Mapping[str, Any]) -> None:
        get: Any = folder.config("evaluate", **values).get_parsed_content
        get("handlers#0")()  # restores the network
        self.device = get("device")
        self.network = get("network_def").to(self.device).eval()
        self.preprocessing, self.inferer, self.scoring = map(get, ("preprocessing", "inferer", "scoring"))

    @torch.no_grad()
    def maps(self, file: str, slices: Sequence[tuple[int, int]], seed: int) -> tuple[dict[str, Tensor], list[int]]:
        """Maps (n, 1, H, W) that are pooled, of the slices of a file as they are and with each kind of anomaly.

        Args:
            file: Scan or image.
            slices: Number of each slice in the run, which seeds its anomalies, and in the file.
            seed: Seed of the run.

        Returns:
            Maps by kind, and the places of the n slices with room for an anomaly among those given.
        """
        image = self.preprocessing({"image": file})["image"]
        plain = image.as_tensor()
        body = body_of(plain, foreground_threshold(plain.amax(0).numpy())).numpy()
        copies = [altered(plain[..., index], body[index], (seed, number)) for number, index in slices]
        kept = [place for place, of_slice in enumerate(copies) if of_slice]
        if not kept:
            return {}, []
        indices = [index for place, (_, index) in enumerate(slices) if place in kept]
        inputs = {NORMAL: plain[..., indices]} | {
            kind: torch.stack([copies[place][kind] for place in kept], -1) for kind in copies[kept[0]]
        }
        together = torch.cat(list(inputs.values()), -1)[None].to(self.device)
        maps = self.inferer(together, self.network)[0].float().cpu().split(len(kept), -1)
        return {
            kind: self._scored(image, indices, of_kind, some)
            for (kind, of_kind), some in zip(inputs.items(), maps, strict=True)
        }, kept

    def _scored(self, image: Any, indices: list[int], slices: Tensor, maps: Tensor) -> Tensor:
        """Standardises and masks maps (1, H, W, n) of slices (C, H, W, n) of an image: (n, 1, H, W)."""
        volume, pred = image.clone(), torch.zeros(1, *image.shape[1:])
        volume[..., indices], pred[..., indices] = slices, maps
        scored = self.scoring({"image": volume, "pred": pred})["pred"]
        return scored[..., indices].permute(3, 0, 1, 2)
