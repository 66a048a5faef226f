"""Tools around the bundle; training, evaluation and inference run by ``python -m monai.bundle run``."""

import argparse
import logging
import sys

from bundle import baseline, benchmark, calibrate, demo, export, phantom, prepare, report, weights

VERBS = {
    "prepare": prepare,
    "weights": weights,
    "calibrate": calibrate,
    "report": report,
    "export": export,
    "baseline": baseline,
    "benchmark": benchmark,
    "phantom": phantom,
    "demo": demo,
}


def main(arguments: list[str] | None = None) -> int:
    """Runs one verb; a wrong input ends with its message and exit code 1, not with a traceback."""
    parser = argparse.ArgumentParser(prog="python -m bundle", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, module in VERBS.items():
        text = (module.__doc__ or "").strip()
        formatter = argparse.RawDescriptionHelpFormatter
        module.configure(
            verbs.add_parser(name, help=text.split("\n")[0].rstrip("."), description=text, formatter_class=formatter)
        )
    args = parser.parse_args(arguments)
    logging.getLogger("monai.data.nvimgcodec_pydicom_plugin").setLevel(
        logging.ERROR
    )  # tells everyone of a missing extra
    try:
        return VERBS[args.verb].run(args)
    except (OSError, ValueError, RuntimeError) as error:
        print(f"{parser.prog} {args.verb}: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
