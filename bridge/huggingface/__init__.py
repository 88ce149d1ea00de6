"""Folders that Hugging Face's transformers loads, with the PyTorch twin as their code."""
