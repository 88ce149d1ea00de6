"""Staged training: data preparation, the training loop, checkpoints and reports."""
