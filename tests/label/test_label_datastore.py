"""What MONAI Label's own endpoints answer where there is nothing."""

import json
from typing import Any

import pytest
from fastapi.testclient import TestClient


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
