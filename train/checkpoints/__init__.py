"""Converts training states to checkpoints and back, and reads any stage as a language model."""
