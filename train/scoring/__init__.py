"""How well a model predicts a split, beside n-gram baselines."""
