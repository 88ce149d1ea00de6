"""Training states to checkpoints and back, and checkpoints of any stage read as language models."""
