"""Finds anomalies in scans: scores and verdicts, maps, masks, pictures, and DICOM results for DICOM series.

    python -m bundle infer models/brain INPUT -o OUT

INPUT is a NIfTI, an image, a DICOM file or DICOMDIR, a folder of any of these, a glob, or a datalist (its test split).
OUT receives scores.csv and slices.csv (score, thresholds, p-value, verdict), maps/ (float32) and masks/ on the grid of
the scan (NIfTI) or image (TIFF, PNG), overlays/*.png, dicom/SERIES/ (segmentation, parametric map, structured report)
and manifest.json. Masks and verdicts need a calibration. What cannot be read is named and does not stop the others; the
exit code is then 3. A DICOM series of a modality that the model was not trained on is scored with a warning, which
manifest.json repeats.
"""

import argparse
from pathlib import Path

from bundle.model_arguments import add_model, given
from scripts.model.folder import ModelFolder


def configure(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of the verb."""
    add_model(parser)
    parser.add_argument("input", metavar="INPUT", help="what to look at, see above")
    parser.add_argument("-o", "--output-dir", type=Path, required=True, metavar="OUT", help="folder of the results")
    parser.add_argument("--mask-threshold", type=float, metavar="T", help="mask above T, of which nothing is promised")
    parser.add_argument("--secondary-capture", action="store_true", help="DICOM overlays as pictures too")


def run(args: argparse.Namespace) -> int:
    """Writes the results, and logs how many scans are abnormal."""
    folder = ModelFolder(args.model)
    values = given(args, folder) | {"input": args.input, "secondary_capture": args.secondary_capture}
    if args.mask_threshold is not None:
        values["mask_threshold"] = args.mask_threshold
    folder.run("inference", **values)
    return 0
