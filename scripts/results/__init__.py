"""Results of scans, and the files that an evaluation and an inference leave behind."""

from scripts.results.result import NOTICE, Result

__all__ = ["NOTICE", "Result"]
