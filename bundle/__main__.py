"""Command line of the bundle. Models are trained by another: python -m monai.bundle run training."""

import argparse
import ast
import logging
import sys
import warnings
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from scripts.errors import cause_of

VERBS = (
    *("prepare", "weights", "select", "calibrate", "evaluate", "infer", "report", "export", "baseline", "benchmark"),
    *("label", "deploy", "listen", "phantom", "demo"),
)


def main(arguments: list[str] | None = None) -> int:
    """Runs one verb; a wrong input ends with its message and exit code 1, not with a traceback."""
    warnings.filterwarnings("ignore", "Current stack size")  # MONAI Deploy's, on every import of MONAI
    words = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(prog="python -m bundle", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name in VERBS:
        text = description(name)
        formatter = argparse.RawDescriptionHelpFormatter
        added = verbs.add_parser(
            name, help=text.split("\n")[0].rstrip("."), description=text, formatter_class=formatter
        )
        if name in words[:1]:  # the others may need what is not installed, as in MONAI Label's environment
            module = import_module(f"bundle.{name}")
            module.configure(added)
    args = parser.parse_args(words or ["--help"])
    plugin = "monai.data.nvimgcodec_pydicom_plugin"  # tells everyone of a missing extra
    logging.getLogger(plugin).setLevel(logging.ERROR)
    try:
        return module.run(args)
    except (OSError, ValueError, RuntimeError) as error:
        print(f"{parser.prog} {args.verb}: {cause_of(error)}", file=sys.stderr)
        return 1


def description(name: str) -> str:
    """Description of a verb: the docstring of its module, which is not imported for it."""
    spec = find_spec(f"bundle.{name}")
    assert spec is not None
    assert spec.origin is not None
    return (ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8"))) or "").strip()


if __name__ == "__main__":
    sys.exit(main())
