"""Calibrate a checkpoint: thresholds that promise a rate of false alarms, and what p-values need.

Scores the normal patients of the datalist's validation split as an evaluation would, and writes calibration.json beside
the checkpoint, where evaluation and inference look for it. A rate of a needs at least 1 / a - 1 patients. What is
promised holds for new normal patients who resemble them: same scanners, protocols, population. The training must not
have seen the patients: neither slices held out of training scans (held_out_slices) nor a split that a training was
stopped by (early_stop_patience) qualify.
"""

import argparse
import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from ignite.engine import Engine, Events
from monai.bundle import ConfigParser

from bundle.configured import add_options, given, parsed
from scripts.data.datalist import datalist_hash, datalist_name
from scripts.data.scans import is_scan
from scripts.files import file_sha256, replacing
from scripts.handlers import ProgressBar
from scripts.model.calibration import (
    LEVELS,
    METHOD,
    PIXEL_RATES,
    PixelTail,
    patients_needed,
    risk_controlling_threshold,
)
from scripts.model.provenance import git_commit

RATES = {"volume": 0.05, "image": 0.05, "pixel": 0.005}
_SCORING = ("score_pooling", "scan_pooling", "foreground_only")
_PROMISES = {
    "volume": "of new normal patients, at most {:.4g} % have a scan that scores above {}",
    "image": "of a new normal patient's slices or images, at most {:.4g} % on average score above {}",
    "pixel": "of a new normal patient's foreground pixels, at most {:.4g} % on average lie above {}",
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the verb."""
    parser.add_argument("--datalist", type=Path, required=True)
    parser.add_argument("--dataset_dir", type=Path, help="where the images are (default: as the datalist says)")
    add_options(parser, ["configs/train.json", "configs/evaluate.json"], "an evaluation")
    parser.add_argument("--ckpt_path", type=Path, help="the checkpoint (default: as the configs say)")
    parser.add_argument("--out", type=Path, help="what is written (default: calibration_path, as the configs say)")
    for level, rate in RATES.items():
        text = f"promised at the {level} level (default: %(default)s)"
        parser.add_argument(f"--{level}-false-positive-rate", type=float, default=rate, metavar="RATE", help=text)


def run(args: argparse.Namespace) -> int:
    """Write the calibration and print what it promises; 1 if no level has a threshold."""
    rates = {level: getattr(args, f"{level}_false_positive_rate") for level in LEVELS}
    for rate in rates.values():
        patients_needed(rate)  # refuses a wrong one before the work
    config = parsed(args.config_file, given(args, "datalist", "dataset_dir", "ckpt_path"), args.set)
    checkpoint = Path(config.get_parsed_content("ckpt_path"))
    out = args.out or Path(config.get_parsed_content("calibration_path"))
    scores = score(config)
    for warning in _weaknesses(config, args.datalist):
        print(f"warning: {warning}", file=sys.stderr)
    content: dict[str, Any] = {
        "method": METHOD,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "git_commit": git_commit(),
        "checkpoint_sha256": file_sha256(checkpoint),
        "scoring": {name: config.get_parsed_content(name) for name in _SCORING},
        "datalist": datalist_name(args.datalist),
        "datalist_sha256": datalist_hash(args.datalist),
        "levels": {level: scores.level(level, rate) for level, rate in rates.items()},
        "scores": scores.nameless(),
    }
    with replacing(out) as part:
        part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(_report(content, scores, out))
    return 0 if any(level["threshold"] is not None for level in content["levels"].values()) else 1


def score(config: ConfigParser) -> "PatientScores":
    """Scores the normal validation patients.

    Args:
        config: of an evaluation; changed so that it calibrates.
    """
    config["items"] = {
        "_target_": "scripts.data.datalist.load_calibration_items",
        "path": "@datalist",
        "dataset_dir": "@dataset_dir",
    }
    foreground = [
        {"_target_": "scripts.transforms.ForegroundInverted", "preprocessing": "@preprocessing"},
        {"_target_": "scripts.transforms.ToPlaned", "keys": "foreground", "plane": "@plane"},
    ]
    config["validate#postprocessing"]["transforms"] += foreground
    config["validate#key_metric"] = config["validate#additional_metrics"] = None
    reader = "scripts.model.checkpoints.CheckpointReader"
    config["validate#handlers"] = [part for part in config["validate#handlers"] if part["_target_"] == reader]
    evaluator: Any = config.get_parsed_content("validate#evaluator")
    scores = PatientScores()
    scores.attach(evaluator)
    ProgressBar("calibration").attach(evaluator)
    evaluator.run()
    return scores


class PatientScores:
    """Collects the scores of normal patients, who come one after the other.

    Takes decollated outputs with ``image``, ``patient``, ``score``, ``slice_scores``, ``empty_slices``, ``anomaly_map``
    and ``foreground`` (1, H, W, D).
    """

    def __init__(self) -> None:
        self.scans = 0
        self.highest: dict[str, float] = {}
        self.images: dict[str, list[float]] = {}
        self.pixels = PixelTail()

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)

    def level(self, level: str, rate: float) -> dict[str, Any]:
        """Gives rate and threshold of a level, or None and the reason, and what it rests on."""
        scores = {"volume": [[value] for value in self.highest.values()], "image": list(self.images.values())}
        try:
            if level == "pixel":
                threshold, reason = self.pixels.threshold(rate), None
            else:
                threshold = risk_controlling_threshold([np.array(values) for values in scores[level]], rate)
                reason = None
        except ValueError as error:
            threshold, reason = None, str(error)
        counts = {"scans": self.scans, "images": sum(map(len, self.images.values())), "pixels": self.pixels.pixels}
        found: dict[str, Any] = {"rate": rate, "threshold": threshold} | ({"reason": reason} if reason else {})
        if level == "pixel":
            found["thresholds"] = self._pixel_thresholds({*PIXEL_RATES, rate})
        return found | {"patients": len(self.highest)} | counts

    def _pixel_thresholds(self, rates: set[float]) -> list[dict[str, float]]:
        """Gives those of the rates that so many patients allow, the highest first, and their thresholds."""
        allowed = [rate for rate in sorted(rates, reverse=True) if patients_needed(rate) <= self.pixels.patients]
        if not self.pixels.pixels:
            return []
        return [{"rate": rate, "threshold": self.pixels.threshold(rate)} for rate in allowed]

    def nameless(self) -> list[dict[str, Any]]:
        """Gives of each patient his highest scan score and the scores of his images, in an order that tells no name."""
        patients = [{"score": self.highest[name], "images": sorted(self.images[name])} for name in self.highest]
        return sorted(patients, key=lambda patient: patient["score"])

    def _collect(self, engine: Engine) -> None:
        output: Any = engine.state.output
        for item in output:
            patient, scores = item["patient"], item["slice_scores"].cpu()
            if is_scan(item["image"].meta["filename_or_obj"]):
                scores = scores[~item["empty_slices"].cpu()]
            self.scans += 1
            self.highest[patient] = max(self.highest.get(patient, -np.inf), float(item["score"]))
            self.images.setdefault(patient, []).extend(scores.tolist())
            inside = item["foreground"].as_tensor().cpu() > 0.5
            self.pixels.add(patient, item["anomaly_map"].as_tensor().cpu()[inside].numpy())


def _weaknesses(config: ConfigParser, datalist: Path) -> list[str]:
    """Says why the promise may not hold, by what the checkpoint tells of its training."""
    facts = config.get_parsed_content("provenance").facts
    warnings = []
    if facts.get("early_stop_patience"):
        warnings.append(
            "the training was stopped by the loss on its validation split (early_stop_patience), so these patients are "
            "not as new ones: false alarms may be more than promised. Calibrate on others, or train without."
        )
    if facts.get("datalist_sha256") != datalist_hash(datalist):
        warnings.append(
            f"the checkpoint was not trained on {datalist}: make sure that none of its validation patients was trained "
            "on, else false alarms will be more than promised."
        )
    return warnings


def _report(content: dict[str, Any], scores: PatientScores, out: Path) -> str:
    counts = content["levels"]["volume"]
    lines = [
        f"Calibrated on {counts['patients']} normal patients of {content['datalist']} ({counts['scans']} scans or "
        f"images, {counts['images']} slices or images, {counts['pixels']} foreground pixels).\n"
    ]
    for level, found in content["levels"].items():
        threshold = found["threshold"]
        promise = _PROMISES[level].format(100 * found["rate"], "" if threshold is None else f"{threshold:.4g}")
        lines.append(f"{level:8}{promise if threshold is not None else 'no threshold: ' + found['reason']}")
    lines.append(
        "\nOn average over calibrations, and for patients like these: other scanners, protocols or populations need "
        f"their own.\nWritten: {out}"
    )
    return "\n".join(lines)
