"""Brings a checkpoint from ModelScope into a folder: whole, checked, going on where it stopped. From Hugging Face, `hf`
does the same."""
