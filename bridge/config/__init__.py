"""A model's config: as a checkpoint states it, as its tensors show it, or from YAML."""
