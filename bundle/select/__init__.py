"""Ranks trained models, and poolings of their maps, by how well they tell synthetic anomalies; no label is needed.

    python -m bundle select models/memory models/pdd          then: python -m bundle calibrate the one it names

Normal slices or images that the training has held back are scored as they are, and again with an anomaly of each kind
drawn into the body: a lesion (a blob, brighter or darker, that displaces tissue), a patch pasted elsewhere, and a patch
of noise. Each model scores them as evaluate and infer would. The AUROC of a kind is the share of pairs, of an altered
slice and a normal one of another patient, in which the altered one scores higher. All models see the same anomalies.
Nothing of the test split is read.

The ranking is as good as synthetic anomalies resemble real ones: take it to choose between models and poolings, never
as a figure of quality. Normals are those of the validation split (prepare --validation-fraction), or slices held out of
training scans (slices#held_out). Intervals (95 %) resample patients, and take at least five.
"""

import argparse
from pathlib import Path

from bundle.model_arguments import add_choices, given
from bundle.select.anomalies import Anomalies
from bundle.select.normals import digest, held_back, taken_evenly
from bundle.select.ranking import Ranking
from bundle.select.scoring import scores_of
from scripts.model.folder import ModelFolder

POOLINGS = ["max", "top_1%", "top_5%", "top_10%", "mean"]


def configure(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of the verb."""
    parser.add_argument("models", nargs="+", metavar="MODEL", help="model folders, which training has written")
    shown = " ".join(POOLINGS).replace("%", "%%")
    parser.add_argument(
        "--pooling", nargs="+", default=POOLINGS, metavar="NAME", help=f"poolings to rank (default: {shown})"
    )
    parser.add_argument(
        "--slices",
        type=int,
        default=200,
        metavar="N",
        help="slices or images, spread evenly; of fewer, each gets anomalies several times (default: %(default)s)",
    )
    parser.add_argument(
        "--size",
        type=float,
        default=1.0,
        metavar="FACTOR",
        help="on the size of anomalies, which take 4 to 12 %% of the side of the image (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of slices and anomalies (default: %(default)s)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the table: .csv, or .json with all else")
    add_choices(parser, datalist=True)


def run(args: argparse.Namespace) -> int:
    """Prints the ranking, and what to take."""
    if args.slices < 1:
        raise ValueError(f"--slices must be at least 1, got {args.slices}.")
    if not 0 < args.size <= 8:
        raise ValueError(f"--size must be above 0 and at most 8, got {args.size:g}.")
    if args.out is not None and args.out.suffix not in (".csv", ".json"):
        raise ValueError(f"--out must end in .csv or .json, got {args.out}.")
    folders = {name: ModelFolder(name) for name in dict.fromkeys(args.models)}
    values = {name: given(args, folder) for name, folder in folders.items()}
    normals = held_back(folders, values)
    chosen = taken_evenly(normals, args.slices, args.seed)
    anomalies = Anomalies(args.seed, args.size)
    draws = args.slices // len(chosen)
    ranking = Ranking(
        {
            name: scores_of(folder, values[name], chosen, args.pooling, anomalies, draws)
            for name, folder in folders.items()
        }
    )
    print(ranking.text())
    if args.out is not None:
        ranking.write(args.out, seed=args.seed, size=args.size, slices=len(chosen), normals_sha256=digest(chosen))
    set_to = {name: folder.config("evaluate", **values[name])["scoring#pooling"] for name, folder in folders.items()}
    print(ranking.advice(set_to))
    return 0
