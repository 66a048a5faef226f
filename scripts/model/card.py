"""The model card: docs/README.md of a model folder."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events

from scripts.data.datalist import datalist_hash, datalist_name
from scripts.files import replacing
from scripts.results.result import NOTICE

logger = logging.getLogger(__name__)

CARD = "docs/README.md"
_SCORES = "## Scores"
_COMMANDS = """## Use

```sh
python -m bundle calibrate .                       # thresholds, on normal patients who were not trained on
python -m bundle evaluate .                        # metrics, on the datalist's test split
python -m bundle infer . INPUT -o OUT              # maps, masks and verdicts
python -m monai.bundle run inferring --config_file configs/inference.json --input INPUT --output_dir OUT
```"""


def model_card(metadata: dict[str, Any]) -> str:
    """Describes a model for people who find its folder: data, teachers, hashes, seed.

    Args:
        metadata: Content of the folder's ``configs/metadata.json``.
    """
    model = metadata["model"]
    training = model.get("training", {})
    rows = {
        "Method": model.get("method"),
        "Data": model.get("data"),
        "Modality": model.get("modality"),
        "Trained on": f"{training['patients']} patients, {training['images']} scans or images" if training else None,
        "Seed": model.get("seed"),
        "Teachers": "; ".join(
            f"{one['name']}, {one['weights']}, sha256 {one['sha256'][:12]}" for one in model.get("teachers", [])
        ),
        "Checkpoint": f"sha256 {model['checkpoint_sha256'][:12]}",
        "Datalist": f"sha256 {model['datalist_sha256'][:12]}" if "datalist_sha256" in model else None,
        "Code": f"version {metadata['version']}, commit {model.get('git_commit', 'unknown')[:12]}",
        "Trained until": model["created"],
        "MLflow run": model.get("mlflow_run_name"),
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items() if value not in (None, ""))
    untrained = ", ".join(model.get("untrained_teachers", []))
    notice = f"{NOTICE} **Untrained teachers ({untrained}): its scores mean nothing.**" if untrained else NOTICE
    return f"# {model['name']}\n\n{notice}\n\n| | |\n|---|---|\n{table}\n\n{_COMMANDS}\n\n{_SCORES}\n\nNot evaluated.\n"


class EvaluatedCard:
    """Puts the scores of an evaluation into the model card.

    Attach it behind the handler that writes ``metrics.json``.

    Args:
        bundle_root: Model folder.
        output_dir: Folder of the evaluation's files.
        datalist: Datalist that was evaluated, whose name and hash the card tells.

    >>> EvaluatedCard("models/brain", "models/brain/eval/test", "datalist.json").card.as_posix()
    'models/brain/docs/README.md'
    """

    def __init__(self, bundle_root: str | Path, output_dir: str | Path, datalist: str | Path) -> None:
        self.card, self.output_dir, self.datalist = Path(bundle_root) / CARD, Path(output_dir), datalist

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self) -> None:
        summary = json.loads((self.output_dir / "metrics.json").read_text(encoding="utf-8"))
        values = {name: value for name, value in summary["metrics"].items() if value is not None}
        table = "\n".join(f"| {name.replace('_', ' ')} | {value:.3f} |" for name, value in sorted(values.items()))
        about = f"Test split of {datalist_name(self.datalist)} (sha256 {datalist_hash(self.datalist)[:12]}): "
        about += f"{summary['items']} scans or images of {summary['groups']} patients."
        head = self.card.read_text(encoding="utf-8").split(_SCORES)[0] if self.card.is_file() else ""
        try:
            with replacing(self.card) as part:
                part.write_text(f"{head}{_SCORES}\n\n{about}\n\n| metric | |\n|---|---|\n{table}\n", encoding="utf-8")
        except OSError as error:  # as in a folder that may only be read
            logger.warning("The scores are not in the model card: %s cannot be written (%s).", self.card, error)
