"""The rules for MONAI bundles, as the model zoo's continuous integration checks them, and our own for the configs."""

import inspect
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ComponentLocator, ConfigParser, ConfigWorkflow, ckpt_export, verify_metadata, verify_net_in_out
from monai.utils import optional_import, set_determinism

from scripts.model.command import merged
from scripts.model.configs import folder_configs
from scripts.networks import Memory

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "configs").rglob("*.json"))
METADATA = json.loads((ROOT / "configs" / "metadata.json").read_text())
SEMVER = r"\d+\.\d+\.\d+"

# What the schema 20240725 requires, of the metadata and of each tensor.
REQUIRED = [
    *("schema", "version", "monai_version", "pytorch_version", "numpy_version", "required_packages_version", "task"),
    *("description", "authors", "copyright", "network_data_format"),
]
TENSOR_REQUIRED = ["type", "format", "num_channels", "spatial_shape", "dtype", "value_range"]

TRAIN_KEYS = [
    *("bundle_root", "device", "dataset_dir", "network_def", "val_interval"),
    *("train#trainer", "train#trainer#max_epochs", "train#dataset", "train#dataset#data", "train#handlers"),
    *("train#preprocessing", "train#inferer"),
    *("validate#evaluator", "validate#handlers", "validate#dataset", "validate#dataset#data"),
    *("validate#preprocessing", "validate#inferer", "validate#key_metric"),
]
INFERENCE_KEYS = [
    *("bundle_root", "device", "dataset_dir", "output_dir", "network_def", "inferer", "dataset", "dataset#data"),
    *("evaluator", "handlers", "preprocessing", "postprocessing"),
]

# Overlays override what their base has; these they may add, and why.
OVERLAYS = ("mlflow", "demo", "ct", "mr", "mr_landmarks", "memory", "rd4ad", "scrd4ad", "light")
ADDED = {"pixel_bins": "an option of the evaluation", "windows": "of the intensity transform that the overlay brings"}
VERBS = {"calibrate": "calibrating", "evaluate": "evaluating", "inference": "inferring"}


def config(name: str) -> dict[str, Any]:
    (path,) = (path for path in CONFIGS if path.stem == name)
    return json.loads(path.read_text())


def of_folder(folder: Path, files: list[str], values: dict[str, Any]) -> Path:
    """Writes the configs of a model folder, and gives their folder."""
    configs = folder / "configs"
    configs.mkdir(parents=True)
    for name, content in folder_configs(merged([str(ROOT / "configs" / file) for file in files], values), {}).items():
        (configs / name).write_text(json.dumps(content))
    for name in ("metadata.json", "logging.conf"):
        (configs / name).write_text((ROOT / "configs" / name).read_text())
    return configs


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def components(value: Any) -> Iterator[dict[str, Any]]:
    """All parts of a config with a ``_target_``."""
    if isinstance(value, dict):
        if "_target_" in value:
            yield value
        for child in value.values():
            yield from components(child)
    elif isinstance(value, list):
        for child in value:
            yield from components(child)


def located(target: str) -> Any:
    module = ComponentLocator().get_component_module_name(target)
    where, attribute = (module, target) if isinstance(module, str) else target.rsplit(".", 1)
    found, exists = optional_import(where, name=attribute)
    assert exists, target
    return found


def test_the_files_that_every_bundle_has() -> None:
    assert "Apache License" in (ROOT / "LICENSE").read_text()
    for name in ("metadata.json", "train.json", "inference.json", "logging.conf"):
        assert (ROOT / "configs" / name).is_file()


def test_metadata_has_what_its_schema_requires() -> None:
    assert METADATA["schema"].endswith("/meta_schema_20240725.json")
    assert not [key for key in [*REQUIRED, "name", "changelog", "intended_use"] if not METADATA.get(key)]
    formats = METADATA["network_data_format"]
    assert list(formats["inputs"]) == ["image"]
    assert list(formats["outputs"]) == ["pred"]
    for tensor in [*formats["inputs"].values(), *formats["outputs"].values()]:
        assert not [key for key in TENSOR_REQUIRED if key not in tensor]
    assert len(formats["inputs"]["image"]["channel_def"]) == formats["inputs"]["image"]["num_channels"]
    # Of the mask that post-processing makes of the one channel: MONAI Label takes its labels from here.
    assert formats["outputs"]["pred"]["channel_def"] == {"0": "background", "1": "anomaly"}


def test_versions_are_semantic_and_logged() -> None:
    for version in [METADATA["version"], *METADATA["changelog"]]:
        assert re.fullmatch(SEMVER, version)
    assert METADATA["changelog"][METADATA["version"]]
    pyproject = (ROOT / "pyproject.toml").read_text()
    assert f'\nversion = "{METADATA["version"]}"\n' in pyproject


def test_versions_are_those_of_the_constraints() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {package(line): line.split("==")[1].strip() for line in lines if "==" in line and not line.startswith("#")}
    ours = {"monai": METADATA["monai_version"], "torch": METADATA["pytorch_version"]}
    ours |= {"numpy": METADATA["numpy_version"], **METADATA["required_packages_version"]}
    assert {package(key): value for key, value in ours.items()} == {
        package(key): pinned.get(package(key)) for key in ours
    }


def package(requirement: str) -> str:
    return re.split(r"[=<>;\[ ]", requirement)[0].lower().replace("_", "-")


def test_metadata_passes_monais_check(tmp_path: Path) -> None:
    tensors = {"type": "object", "additionalProperties": {"type": "object", "required": TENSOR_REQUIRED}}
    schema = {
        "type": "object",
        "required": REQUIRED,
        "properties": {
            "version": {"type": "string", "pattern": f"^{SEMVER}$"},
            "network_data_format": {
                "type": "object",
                "required": ["inputs", "outputs"],
                "properties": {"inputs": tensors, "outputs": tensors},
            },
        },
    }
    path = tmp_path / "schema.json"
    path.write_text(json.dumps(schema))  # is there already, so nothing is downloaded
    verify_metadata(meta_file=str(ROOT / "configs" / "metadata.json"), filepath=str(path))


@pytest.mark.parametrize(
    ("name", "keys", "run_id"),
    [("train", TRAIN_KEYS, "training"), *((verb, INFERENCE_KEYS, run_id) for verb, run_id in VERBS.items())],
)
def test_a_config_has_the_keys_that_tools_ask_for(name: str, keys: list[str], run_id: str, tmp_path: Path) -> None:
    for path in (ROOT / "configs", of_folder(tmp_path, ["train.json"], {})):
        if path == ROOT / "configs" and name != "train":  # of the others a part: the rest is the training's
            continue
        parser = ConfigParser(json.loads((path / f"{name}.json").read_text()))
        optional = ("output_dir",) if name == "calibrate" else ()
        assert not [key for key in keys if key not in parser and key not in optional]
        assert parser["run"]
        assert parser[run_id] == "%run"  # people type it, MONAI Label sends "run"


def test_a_folders_config_holds_what_its_run_needs_and_no_more(tmp_path: Path) -> None:
    given = {
        "image_size": 128,
        "windows": ["bone"],
        "network_def#sigma": 2.0,
        "cache_dir": "elsewhere",
        "run_name": "x",
    }
    configs = of_folder(tmp_path, ["train.json", "data/ct.json"], given)
    train, calibrate, evaluate, inference = (
        json.loads((configs / f"{name}.json").read_text()) for name in ("train", *VERBS)
    )
    for content in (train, calibrate, evaluate, inference):
        assert content["image_size"] == 128
        assert content["windows"] == ["bone"]
        assert content["network_def"]["sigma"] == 2.0
        assert content["preprocessing"]["crop_to_foreground"]
        assert content["cache_dir"] == config("train")["cache_dir"]  # of a machine
    assert train["run_name"] is None
    assert evaluate["pixel_bins"] == 65536  # an overlay's word for a later verb
    assert not {"pixel_bins", "datalist"} & inference.keys()  # a scan is scored wherever there is no datalist
    for content in (calibrate, evaluate, inference):
        assert not {"epochs", "optimizer", "loss", "train", "validate", "slices", "training"} & content.keys()


def test_validation_happens_at_its_interval() -> None:
    (handler,) = [part for part in components(config("train")) if part["_target_"] == "ValidationHandler"]
    assert handler["interval"] == "@val_interval"


def test_properties_of_a_training(workflow: Callable[..., Any]) -> None:
    assert workflow("train.json").check_properties() == []


@pytest.mark.parametrize("verb", VERBS)
def test_properties_of_a_folders_configs(
    verb: str, bundle_args: dict[str, Any], tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    configs = of_folder(tmp_path / "folder", ["train.json"], bundle_args)
    overrides = {"input": str(tiny_dataset), "datalist": str(tiny_dataset)}
    file = str(configs / f"{verb}.json")
    workflow = ConfigWorkflow(file, workflow_type="inference", logging_file=False, **overrides)
    workflow.initialize()
    assert workflow.check_properties() == []
    set_determinism(None)


def test_properties_from_another_working_directory(
    bundle_args: dict[str, Any], tiny_dataset: Path, tmp_path: Path
) -> None:
    program = """
import sys
from monai.bundle import ConfigWorkflow
root, datalist = sys.argv[1:]
sys.path.insert(0, root)
values = {"bundle_root": root, "input": datalist, "datalist": datalist}
workflow = ConfigWorkflow(f"{root}/configs/inference.json", workflow_type="inference", **values)
workflow.initialize()
print("inference", workflow.check_properties())
"""
    folder = tmp_path / "folder"
    of_folder(folder, ["train.json"], bundle_args)
    (folder / "scripts").symlink_to(ROOT / "scripts")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder), str(tiny_dataset)],
        cwd=tmp_path,
        env=environment,
        text=True,
        stdout=-1,
        stderr=-2,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "inference []" in done.stdout
    # MONAI refuses a logging.conf whose handlers are not on its list.
    assert f"Setting logging properties based on config: {folder}/configs/logging.conf" in done.stdout


METHODS = ["pdd", "rd4ad", "scrd4ad", "memory"]


@pytest.mark.parametrize("method", METHODS, indirect=True)
def test_the_network_fits_the_metadata(bundle_args: dict[str, Any], of_method: Callable[..., list[str]]) -> None:
    networks = {key: value for key, value in bundle_args.items() if key.startswith("network_def")}
    verify_net_in_out(
        net_id="network_def",
        meta_file=str(ROOT / "configs" / "metadata.json"),
        config_file=[str(ROOT / "configs" / file) for file in of_method("train.json")],
        device="cpu",
        n=2,
        **networks,
    )


@pytest.mark.parametrize("method", METHODS, indirect=True)
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_an_exported_network_computes_as_the_original(
    bundle_args: dict[str, Any], of_method: Callable[..., list[str]], tmp_path: Path
) -> None:
    files = [str(ROOT / "configs" / file) for file in of_method("train.json")]
    networks = {key: value for key, value in bundle_args.items() if key.startswith("network_def")}
    parser = ConfigParser(ConfigParser.load_config_files(files))
    parser.update(networks)
    torch.manual_seed(0)
    network = parser.get_parsed_content("network_def")
    for _ in range(2):  # statistics of its own for every batch normalisation
        images = torch.rand(4, 3, 64, 64)
        if isinstance(network, Memory):
            network.remember(network.features(images), ["a"] * 4, images=8)
        else:
            network.train()(images)
    if isinstance(network, Memory):
        network.consolidate()
    torch.save({"model": network.state_dict()}, tmp_path / "model.pt")
    ckpt_export(
        net_id="network_def",
        filepath=str(tmp_path / "model.ts"),
        ckpt_file=str(tmp_path / "model.pt"),
        meta_file=str(ROOT / "configs" / "metadata.json"),
        config_file=files,
        key_in_ckpt="model",
        use_trace=True,
        input_shape=[1, 3, 64, 64],
        **networks,
    )
    kept = {"metadata.json": "", **{Path(file).name: "" for file in files}}
    exported = torch.jit.load(tmp_path / "model.ts", _extra_files=kept)
    assert json.loads(kept["metadata.json"])["version"] == METADATA["version"]
    for file in files:
        assert json.loads(kept[Path(file).name]) == json.loads(Path(file).read_text())
    images = torch.rand(3, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(exported(images), network.eval()(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_config_is_written_as_the_zoo_formats_it(path: Path) -> None:
    text = path.read_text()
    assert text == json.dumps(json.loads(text), indent=4, ensure_ascii=False) + "\n"


@pytest.mark.parametrize("name", OVERLAYS)
def test_an_overlay_only_overrides(name: str) -> None:
    parser = ConfigParser(config("train"))
    unknown = [key for key in config(name) if key not in parser and key not in ADDED]
    assert not [key for key in unknown if not is_argument(parser, *key.rsplit("#", 1))]


def test_the_verbs_define_nothing_twice() -> None:
    train, scoring = config("train"), config("scoring")
    for verb in VERBS:
        own = config(verb)
        assert own.keys() & train.keys() == {"run"}
        assert own.keys() & scoring.keys() <= {"key_metric", "additional_metrics"}
    assert not scoring.keys() & train.keys()


def is_argument(parser: ConfigParser, *names: str) -> bool:
    """Whether an id is an argument of a component, left at its default by the base."""
    if len(names) != 2 or "_target_" not in parser.get(names[0], {}):
        return False
    return names[1] in inspect.signature(located(parser[names[0]]["_target_"])).parameters


def test_every_config_is_known_here() -> None:
    assert {path.stem for path in CONFIGS} == {"metadata", "train", "scoring", *VERBS, *OVERLAYS}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_component_exists_and_takes_its_arguments(path: Path) -> None:
    for part in components(json.loads(path.read_text())):
        arguments = {key: value for key, value in part.items() if not re.fullmatch("_.*_", key)}
        inspect.signature(located(part["_target_"])).bind(**arguments)


def test_every_class_that_a_config_names_shows_an_example() -> None:
    ours = {part["_target_"] for path in CONFIGS for part in components(json.loads(path.read_text()))}
    classes = [located(target) for target in sorted(ours) if target.startswith("scripts.")]
    without = [found.__name__ for found in classes if inspect.isclass(found) and ">>> " not in (found.__doc__ or "")]
    assert not without


def test_no_tracked_file_is_large() -> None:
    assert not [path for path in tracked() if path.stat().st_size > 1024 * 1024]


def test_no_tracked_file_names_a_folder_of_some_machine() -> None:
    folders = "|".join(("home", "Users", "root", "work", "mnt", "tmp"))
    machine = re.compile(rf"(?<![\w.~}}-])/(?:{folders})/\w+".encode())
    found = {
        f"{path.relative_to(ROOT)}: {match.group().decode()}"
        for path in tracked()
        for match in machine.finditer(path.read_bytes())
        if path.suffix not in (".png", ".pt")
    }
    assert not found
