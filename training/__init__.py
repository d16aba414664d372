"""Trains the tiny Qwen3-Omni of the local stack from nothing: see README.md."""
