"""What people run: ``python -m bundle VERB``."""
