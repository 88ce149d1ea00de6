"""The command line of `python -m bridge`."""
