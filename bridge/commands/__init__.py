"""The commands of `python -m bridge`, and what they print."""
