"""Sources of the figures in docs/performance.md. Each program, `python -m bench.<name>`, reports its machine."""
