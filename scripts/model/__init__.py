"""A trained model: its checkpoint, where it comes from, what its scores mean, and how it is run."""
