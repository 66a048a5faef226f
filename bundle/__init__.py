"""Command line: ``python -m bundle VERB``."""
