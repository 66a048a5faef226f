"""Scores of normal slices and of their altered copies, by one model."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from bundle.select.anomalies import Anomalies
from scripts.anomaly_map import anomaly_score
from scripts.data.foreground import foreground_threshold
from scripts.model.folder import ModelFolder
from scripts.transforms.scoring import body_of

NORMAL = "normal"


class Scores(NamedTuple):
    """Scores by one model of N slices, each counted as often as anomalies were drawn in it.

    Attributes:
        scores: For each pooling, those of the slices as they are, ``normal``, and with each kind of anomaly: (N,).
        patients: Patient of each slice, (N,).
        slices: Number of each slice, (N,).
    """

    scores: dict[str, dict[str, NDArray[np.float64]]]
    patients: NDArray[np.str_]
    slices: NDArray[np.int_]


def scores_of(
    folder: ModelFolder,
    values: Mapping[str, Any],
    items: Sequence[dict[str, Any]],
    poolings: Sequence[str],
    anomalies: Anomalies,
    draws: int = 1,
) -> Scores:
    """Scores slices as they are and with anomalies, as the model's evaluation would.

    A slice whose body has no room for an anomaly is left out.

    Args:
        folder: Model folder.
        values: Config values by id.
        items: Normal images, and slices of scans.
        poolings: Poolings of the maps, see ``AnomalyScored``.
        anomalies: What draws the anomalies.
        draws: How often it does so in each slice.

    Raises:
        ValueError: If no slice has room for an anomaly, there is no such pooling, or a scan cannot be read.
    """
    for pooling in poolings:
        anomaly_score(torch.zeros(1, 1, 1, 1), pooling)  # refuses a wrong one before the work
    files: dict[str, list[int]] = {}
    for place, item in enumerate(items):
        files.setdefault(item["image"], []).append(place)
    model = _Model(folder, values, anomalies)
    found: dict[str, dict[str, list[Tensor]]] = {pooling: {} for pooling in poolings}
    slices: list[int] = []
    with tqdm(total=draws * len(items), desc=str(folder.path), unit="slice") as bar:
        for draw, (file, places) in itertools.product(range(draws), files.items()):
            indices = [items[place].get("slice", 0) for place in places]
            maps, kept = model.maps(file, indices, [(draw, place) for place in places])
            slices += [places[one] for one in kept]
            for pooling, (kind, of_kind) in itertools.product(poolings, maps.items()):
                found[pooling].setdefault(kind, []).append(anomaly_score(of_kind, pooling))
            bar.update(len(places))
    if not slices:
        raise ValueError(f"None of the {len(items)} normal slices has a body with room for an anomaly.")
    joined = {
        pooling: {kind: torch.cat(parts).double().numpy() for kind, parts in of_pooling.items()}
        for pooling, of_pooling in found.items()
    }
    return Scores(joined, np.array([items[place]["group"] for place in slices]), np.array(slices))


class _Model:
    """Parts of a model folder's evaluation that map and score, with the weights restored."""

    def __init__(self, folder: ModelFolder, values: Mapping[str, Any], anomalies: Anomalies) -> None:
        self.anomalies = anomalies
        get: Any = folder.config("evaluate", **values).get_parsed_content
        get("handlers#0")()  # restores the network
        self.device = get("device")
        self.network = get("network_def").to(self.device).eval()
        self.preprocessing, self.inferer, self.scoring = map(get, ("preprocessing", "inferer", "scoring"))

    @torch.no_grad()
    def maps(
        self, file: str, indices: Sequence[int], numbers: Sequence[tuple[int, ...]]
    ) -> tuple[dict[str, Tensor], list[int]]:
        """Maps (n, 1, H, W) that are pooled, of the slices of a file as they are and with each kind of anomaly.

        Args:
            file: Scan or image.
            indices: Slices of the file, each once.
            numbers: Which draw each slice's anomalies are, see ``Anomalies``.

        Returns:
            Maps by kind, and which of ``indices`` they are of: those with room for an anomaly.
        """
        image = self.preprocessing({"image": file})["image"]
        plain = image.as_tensor()
        body = body_of(plain, foreground_threshold(plain.amax(0).numpy())).numpy()
        pairs = zip(indices, numbers, strict=True)
        copies = [self.anomalies(plain[..., index], body[index], number) for index, number in pairs]
        kept = [place for place, of_slice in enumerate(copies) if of_slice]
        if not kept:
            return {}, []
        some = [indices[place] for place in kept]
        inputs = {NORMAL: plain[..., some]} | {
            kind: torch.stack([copies[place][kind] for place in kept], -1) for kind in copies[kept[0]]
        }
        together = torch.cat(list(inputs.values()), -1)[None].to(self.device)
        maps = self.inferer(together, self.network)[0].float().cpu().split(len(kept), -1)
        return {
            kind: self._scored(image, some, slices, of_kind)
            for (kind, slices), of_kind in zip(inputs.items(), maps, strict=True)
        }, kept

    def _scored(self, image: Any, indices: list[int], slices: Tensor, maps: Tensor) -> Tensor:
        """Standardises and masks maps (1, H, W, n) of slices (C, H, W, n) of an image: (n, 1, H, W)."""
        volume, pred = image.clone(), torch.zeros(1, *image.shape[1:])
        volume[..., indices], pred[..., indices] = slices, maps
        scored = self.scoring({"image": volume, "pred": pred})["pred"]
        return scored[..., indices].permute(3, 0, 1, 2)
