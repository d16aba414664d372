"""Sources of the README's figures. Each program, `python -m bench.<name>`, reports the machine that it ran on."""
