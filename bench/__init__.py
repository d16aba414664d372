"""Where the figures of the README come from. Each program, `python -m bench.<name>`, says what it ran on."""
