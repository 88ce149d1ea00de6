"""From files of any kind to documents that can be trained on."""
