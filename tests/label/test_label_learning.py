"""Active learning: what is scored, and which image comes next."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from fastapi.testclient import TestClient
from monailabel.datastore.local import LocalDatastore

from bundle.label.learning import AnyUnseen, MostAnomalous, MostUncertain
from bundle.label.options import identity
from scripts.model.folder import CALIBRATION


def score(client: TestClient) -> dict[str, int]:
    answer = client.post("/scoring/anomaly?run_sync=true")
    assert answer.status_code == 200, answer.text
    return answer.json()


def info(client: TestClient, image: str) -> dict[str, Any]:
    return client.get(f"/datastore/image/info?image={image}").json()


def give_label(client: TestClient, studies: Path, image: str, folder: Path) -> None:
    scan = nib.load(studies / f"{image}.nii.gz")
    nib.save(nib.Nifti1Image(np.ones(scan.shape, np.uint8), scan.affine), folder / "label.nii.gz")
    with (folder / "label.nii.gz").open("rb") as file:
        answer = client.put(f"/datastore/label?image={image}", files={"label": ("label.nii.gz", file)})
    assert answer.status_code == 200, answer.text


class Calibrated:
    """A predictor of which only the calibration is asked."""

    def __init__(self, rate: float | None) -> None:
        self.calibration = self
        self.rates = {} if rate is None else {"scan": rate}
        self.facts = {"checkpoint_sha256": "sha", "created": "today"}


@pytest.fixture
def scored(tmp_path: Path) -> Callable[..., LocalDatastore]:
    """``scored(a=(score, p_value), ...)``: a datastore of these images, scored by ``Calibrated``."""

    def make(**images: tuple[float, float | None]) -> LocalDatastore:
        for name in images:
            (tmp_path / f"{name}.nii.gz").touch()
        datastore = LocalDatastore(str(tmp_path))
        for name, (value, p_value) in images.items():
            known = {"score": value, "p_value": p_value, "anomaly_model": identity(Calibrated(0.1))}
            datastore.update_image_info(name, known)
        return datastore

    return make


def test_the_scores_of_the_scoring_are_those_of_an_inference(client: TestClient) -> None:
    assert score(client) == {"scored": 5, "failed": 0, "up_to_date": 0}
    for image in ("normal2", "anomalous1"):
        about = client.post(f"/infer/anomaly_map?image={image}&output=json").json()
        known = info(client, image)
        assert known["score"] == about["score"]
        assert (known["p_value"], known["top_slice"]) == (about["p_value"], about["top_slice"])
    assert score(client) == {"scored": 0, "failed": 0, "up_to_date": 5}


def test_an_image_that_cannot_be_scored_does_not_stop_the_others(client: TestClient, studies: Path) -> None:
    (studies / "anomalous1.nii.gz").write_bytes(b"no scan")
    assert score(client) == {"scored": 4, "failed": 1, "up_to_date": 0}
    assert "score" not in info(client, "anomalous1")


def test_the_most_anomalous_comes_first_and_is_gone_once_it_is_labelled(
    client: TestClient, studies: Path, tmp_path: Path
) -> None:
    score(client)
    scores = {name: info(client, name)["score"] for name in ("anomalous1", *(f"normal{k}" for k in range(1, 5)))}
    ranked = sorted(scores, key=scores.__getitem__, reverse=True)
    for image in ranked[:2]:
        answer = client.post("/activelearning/most_anomalous", json={}).json()
        assert answer["id"] == image
        assert answer["score"] == scores[image]
        give_label(client, studies, image, tmp_path)
    assert client.post("/activelearning/random", json={}).json()["id"] in ranked[2:]


def test_when_all_is_labelled_nothing_comes_next(client: TestClient, studies: Path, tmp_path: Path) -> None:
    for image in ("anomalous1", "normal1", "normal2", "normal3", "normal4"):
        give_label(client, studies, image, tmp_path)
    for strategy in ("most_anomalous", "most_uncertain", "random"):
        answer = client.post(f"/activelearning/{strategy}", json={})
        assert (answer.status_code, answer.json()) == (200, {})


@pytest.mark.parametrize("strategy", ["most_anomalous", "most_uncertain"])
def test_before_the_scoring_the_remedy_is_named(client: TestClient, strategy: str) -> None:
    answer = client.post(f"/activelearning/{strategy}", json={})
    assert answer.status_code == 409
    assert "POST /scoring/anomaly" in answer.json()["detail"]


def test_the_most_uncertain_is_nearest_to_the_promised_rate(scored: Callable[..., LocalDatastore]) -> None:
    datastore = scored(a=(9.0, 0.02), b=(5.0, 0.12), c=(4.0, 0.5), d=(3.0, None))
    assert MostUncertain(Calibrated(0.1))({}, datastore) == {"id": "b"}
    assert MostUncertain(Calibrated(0.4))({}, datastore) == {"id": "c"}
    assert MostAnomalous(Calibrated(None))({}, datastore) == {"id": "a"}


def test_scores_of_an_earlier_model_do_not_count(scored: Callable[..., LocalDatastore]) -> None:
    datastore = scored(a=(9.0, 0.02), b=(5.0, 0.12))
    datastore.update_image_info("a", {"anomaly_model": "an earlier one"})
    assert MostAnomalous(Calibrated(0.1))({}, datastore) == {"id": "b"}


def test_an_image_that_a_reader_has_marked_as_normal_does_not_come_again(scored: Callable[..., LocalDatastore]) -> None:
    datastore = scored(a=(9.0, 0.02), b=(5.0, 0.12))
    datastore.update_image_info("a", {"normal": True})
    assert MostAnomalous(Calibrated(0.1))({}, datastore) == {"id": "b"}
    assert {AnyUnseen()({}, datastore)["id"] for _ in range(20)} == {"b"}
    datastore.update_image_info("b", {"normal": True})
    assert MostAnomalous(Calibrated(0.1))({}, datastore) is None
    assert AnyUnseen()({}, datastore) is None


def test_any_image_comes_before_one_comes_again(client: TestClient) -> None:
    drawn = [client.post("/activelearning/random", json={}).json()["id"] for _ in range(5)]
    assert sorted(drawn) == ["anomalous1", "normal1", "normal2", "normal3", "normal4"]


def test_without_calibration_none_is_the_most_uncertain(client: TestClient, model_folder: Path) -> None:
    (model_folder / CALIBRATION).unlink()
    score(client)
    answer = client.post("/activelearning/most_uncertain", json={})
    assert answer.status_code == 409
    assert "not calibrated" in answer.json()["detail"]
    assert info(client, "normal1")["p_value"] is None
    assert client.post("/activelearning/most_anomalous", json={}).status_code == 200


def test_a_calibration_makes_earlier_p_values_out_of_date(client: TestClient, model_folder: Path) -> None:
    score(client)
    file = model_folder / CALIBRATION
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, "created": "later"}))
    assert score(client)["scored"] == 5
