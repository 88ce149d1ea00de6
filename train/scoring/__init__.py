"""How well a model predicts a split, compared with n-gram baselines."""
