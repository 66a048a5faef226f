"""What MONAI Label's own endpoints answer where there is nothing, and what is kept of images."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from bundle.label.datastore import NiftiStudies


@pytest.mark.parametrize(
    ("method", "path", "options"),
    [
        ("GET", "/datastore/image?image=nobody", {}),
        ("GET", "/datastore/label?label=nobody&tag=final", {}),
        ("DELETE", "/datastore/image?id=nobody", {}),
        ("PUT", "/datastore/image/info?image=nobody", {"data": {"info": "{}"}}),
        ("PUT", "/datastore/label/info?label=nobody&tag=final", {"data": {"info": "{}"}}),
        ("PUT", "/datastore/label?image=nobody", {"files": {"label": ("label.nii.gz", b"label")}}),
    ],
)
def test_an_unknown_image_is_not_found(client: TestClient, method: str, path: str, options: dict[str, Any]) -> None:
    answer = client.request(method, path, **options)
    assert answer.status_code == 404
    assert "not found" in answer.json()["detail"].lower()


def test_information_that_is_no_json_is_refused(client: TestClient) -> None:
    answer = client.put("/datastore/image/info?image=normal1", data={"info": "{"})
    assert answer.status_code == 422
    assert answer.json()["detail"]


def test_an_error_that_nobody_foresaw_says_what_it_is(client: TestClient) -> None:
    answer = client.get("/datastore/dataset")  # of labels, of which there are none
    assert answer.status_code == 500
    assert answer.json()["detail"] == "AssertionError: ZIP archive was not created, nothing to include"


def test_information_is_kept_and_given_back(client: TestClient) -> None:
    kept = {"normal": True, "reader": "A"}
    assert client.put("/datastore/image/info?image=normal1", data={"info": json.dumps(kept)}).status_code == 200
    assert kept.items() <= client.get("/datastore/image/info?image=normal1").json().items()
    objects = client.get("/datastore/?output=all").json()["objects"]
    assert sorted(objects) == ["anomalous1", "normal1", "normal2", "normal3", "normal4"]


def test_what_processes_write_at_once_is_all_kept(studies: Path) -> None:
    server, scoring = (NiftiStudies(str(studies)) for _ in range(2))  # each has read the list before the other writes
    server.update_image_info("normal1", {"normal": True})
    scoring.update_image_info("normal2", {"score": 1.0})
    server.save_label("normal3", str(studies / "normal3.nii.gz"), "final", {"reader": "A"})
    scoring.update_image_info("normal3", {"score": 2.0})
    server.update_label_info("normal3", "final", {"seen": True})
    server.add_image("new", str(studies / "normal4.nii.gz"), {})
    scoring.update_image_info("normal1", {"score": 3.0})
    kept = NiftiStudies(str(studies))
    about = {image: kept.get_image_info(image) for image in ("normal1", "normal2", "normal3")}
    assert {"normal": True, "score": 3.0}.items() <= about["normal1"].items()
    assert (about["normal2"]["score"], about["normal3"]["score"]) == (1.0, 2.0)
    assert {"reader": "A", "seen": True}.items() <= kept.get_label_info("normal3", "final").items()
    assert "new" in kept.list_images()


def test_what_threads_write_at_once_is_all_kept(studies: Path) -> None:
    stores = [NiftiStudies(str(studies)) for _ in range(3)]
    with ThreadPoolExecutor(6) as threads:
        list(threads.map(lambda n: stores[n % 3].update_image_info("normal1", {f"key {n}": n}), range(60)))
    kept = NiftiStudies(str(studies)).get_image_info("normal1")
    assert [kept[f"key {n}"] for n in range(60)] == list(range(60))


def test_a_list_that_cannot_be_written_stays_as_it_was(studies: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = NiftiStudies(str(studies))
    store.update_image_info("normal1", {"normal": True})

    def full(path: Path, text: str, **options: Any) -> int:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space left"):
        store.update_image_info("normal2", {"normal": True})
    assert NiftiStudies(str(studies)).get_image_info("normal1")["normal"] is True
    assert not list(studies.glob(".*.json"))


def test_a_scan_that_is_sent_takes_no_other_ones_place(client: TestClient, studies: Path) -> None:
    before, scan = (studies / "normal1.nii.gz").read_bytes(), (studies / "normal2.nii.gz").read_bytes()
    for name in ("scan.nii.gz", "scan.nii"):
        answer = client.put("/datastore/image?image=normal1", files={"file": (name, scan)})
        assert answer.status_code == 422
        assert "already" in answer.json()["detail"]
    assert (studies / "normal1.nii.gz").read_bytes() == before
    listed = (studies / "datastore_v2.json").read_bytes()
    assert client.put("/datastore/image?image=datastore_v2", files={"file": ("a.json", b"{}")}).status_code == 422
    assert (studies / "datastore_v2.json").read_bytes() == listed
    assert client.put("/datastore/image?image=another", files={"file": ("scan.nii.gz", scan)}).status_code == 200
    assert (studies / "another.nii.gz").read_bytes() == scan


def test_a_name_may_hold_a_suffix_in_its_midst(studies: Path) -> None:
    (studies / "normal1.nii.gz").rename(studies / "a.nii.gz_b.nii.gz")
    store = NiftiStudies(str(studies))
    assert store.get_image_uri("a.nii.gz_b") == str(studies / "a.nii.gz_b.nii.gz")
