"""Every setting of a run, and how a command line and a YAML file set them."""
