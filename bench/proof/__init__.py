"""The sections of `python -m bench.gpu_proof`."""
