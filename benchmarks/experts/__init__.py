"""What experts and their fusion gain, beside controls that cost as much."""
