"""What no request may do: leave the folders of the server, poison what it answers, or leave a scan behind."""

import io
import json
import tarfile
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from bundle.label.batches import Batches
from bundle.label.learning import AnomalyScoring
from bundle.label.requests import is_name
from bundle.label.training import AnomalyTraining

SECRET = {"file": ("scan.nii.gz", b"scan")}
LABEL = {"label": ("label.nii.gz", b"label")}


@pytest.mark.parametrize("name", ["sub-01", "Mü日", "with space", "v1.2.3", "-dash", "...", "a" * 248])
def test_whatever_a_file_is_called_is_a_name(name: str) -> None:
    assert is_name(name)


@pytest.mark.parametrize("name", ["", ".", "..", "../a", "/a", "a/b", "a\\b", "a\0b", "a" * 249, "日" * 83, None, 5])
def test_a_path_is_no_name(name: object) -> None:
    assert not is_name(name)


@pytest.mark.parametrize(
    ("method", "path", "files"),
    [
        ("PUT", "/datastore/image?image={}", SECRET),
        ("PUT", "/datastore/?image={}", SECRET),
        ("PUT", "/datastore/label?image=normal1&tag={}", LABEL),
        ("GET", "/datastore/label?label=normal1&tag={}", {}),
        ("DELETE", "/datastore/label?id=normal1&tag={}", {}),
        ("DELETE", "/datastore/image?id={}", {}),
        ("POST", "/infer/anomaly_map?image={}", {}),
        ("POST", "/infer/anomaly_map?session_id={}", {}),
    ],
)
def test_a_path_in_the_place_of_a_name_leads_nowhere(
    client: TestClient, studies: Path, method: str, path: str, files: Any
) -> None:
    kept = studies.parent / "elsewhere"
    kept.mkdir()
    (kept / "meta.info").write_text('{"image": "/gone"}')  # by which MONAI Label takes a folder for a session's remains
    before = sorted(studies.parent.rglob("*"))
    for outside in ("../elsewhere", str(kept), "../../elsewhere", "../../../elsewhere"):
        answer = client.request(method, path.format(outside), files=files)
        assert answer.status_code == 404
        assert "give a name and not a path" in answer.json()["detail"]
    assert sorted(studies.parent.rglob("*")) == before


def test_params_name_no_other_image_and_no_folder(client: TestClient, studies: Path, phantoms: Path) -> None:
    def post(**params: Any) -> Any:
        return client.post("/infer/anomaly_map?image=normal1&output=json", data={"params": json.dumps(params)})

    other = str(sorted(phantoms.glob("anomalous/*/ct.nii.gz"))[0])
    expected = post().json()
    assert post(image=other, model="anomaly_segmentation", session="a", label=other).json() == expected
    assert post(image=5).json() == expected
    for tag in ("../../elsewhere", 5):
        answer = post(save_label=True, label_tag=tag)
        assert answer.status_code == 422
        assert "label_tag" in answer.json()["detail"]
        answer = client.post("/batch/infer/anomaly_map?run_sync=true", json={"label_tag": tag})
        assert answer.status_code == 422
    assert not (studies.parent / "elsewhere").exists()


def test_there_is_no_way_to_scans_by_the_paths_of_microscopy(client: TestClient, phantoms: Path) -> None:
    other = sorted(phantoms.glob("anomalous/*/ct.nii.gz"))[0]
    for kind in ("wsi", "wsi_v2"):
        assert client.post(f"/infer/{kind}/anomaly_map?image={other}&output=json").status_code == 404


def test_an_archive_is_not_unpacked(client: TestClient, tmp_path: Path) -> None:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        archive.addfile(tarfile.TarInfo(f"{'../' * 20}{tmp_path.relative_to('/')}/escaped"))
    answer = client.put("/session/?uncompress=true", files={"files": ("scans.tar", content.getvalue())})
    assert answer.status_code == 422
    assert "Archives are not accepted" in answer.json()["detail"]
    assert not (tmp_path / "escaped").exists()


@pytest.mark.parametrize("text", ['{"x": NaN}', '{"x": [-Infinity]}', '{"x": 1e999}', "[1]", "5", '"text"', "{"])
def test_information_that_could_not_be_given_back_is_refused(client: TestClient, text: str) -> None:
    before = client.get("/datastore/?output=all").json()
    for path in ("/datastore/image/info?image=normal1", "/datastore/label/info?label=normal1&tag=final"):
        answer = client.put(path, data={"info": text})
        assert answer.status_code == 422
        assert "JSON" in answer.json()["detail"]
    for path, files in (("/datastore/image?image=new", SECRET), ("/datastore/label?image=normal1", LABEL)):
        assert client.put(path, files=files, data={"params": text}).status_code == 422
    headers = {"Content-Type": "application/json"}
    for path in ("/activelearning/random", "/train/anomaly?run_sync=true", "/scoring/anomaly?run_sync=true"):
        assert client.post(path, content=text, headers=headers).status_code == 422
    assert client.get("/datastore/?output=all").json() == before


@pytest.mark.parametrize("name", ["..", "a." + "b" * 250])
def test_a_file_whose_name_cannot_be_written_is_refused(client: TestClient, name: str) -> None:
    for path, field in (("/session/", "files"), ("/datastore/image?image=new", "file")):
        answer = client.put(path, files={field: (name, b"scan")})
        assert answer.status_code == 422
        assert "name" in answer.json()["detail"]


def test_what_is_sent_with_a_request_that_fails_is_removed(
    client: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, studies: Path
) -> None:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    scan = {"file": ("scan.nii.gz", (studies / "normal1.nii.gz").read_bytes())}
    assert client.post("/infer/anomaly_map?output=json", files=scan).status_code == 200
    options = {"params": json.dumps({"plane": "coronal"})}
    assert client.post("/infer/anomaly_map?output=json", files=scan, data=options).status_code == 422
    assert client.post("/infer/anomaly_map?output=json", files=SECRET).status_code == 422
    assert client.put("/datastore/label?image=nobody", files=LABEL).status_code == 404
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("path", "task"),
    [
        ("/scoring/anomaly", AnomalyScoring),
        ("/batch/infer/anomaly_map", Batches),
        ("/train/anomaly", AnomalyTraining),
    ],
)
def test_who_waits_for_a_long_task_is_the_only_one(
    client: TestClient, path: str, task: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, asked, meanwhile = threading.Event(), threading.Event(), []

    def call(self: Any, *args: Any) -> dict[str, bool]:
        started.set()
        meanwhile.append(asked.wait(20))
        return {"done": True}

    monkeypatch.setattr(task, "__call__", call)
    with client, ThreadPoolExecutor(1) as other:  # one event loop for both requests
        long = other.submit(client.post, f"{path}?run_sync=true", json={})
        started.wait()
        assert client.get("/info/").json()["datastore"]["total"] == 5
        asked.set()
        assert long.result().json() == {"done": True}
    assert meanwhile == [True]
