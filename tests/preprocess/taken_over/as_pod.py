"""Decoders of a service that has a pod's user and no capability."""

from tests.preprocess.taken_over.decoder import main

main(10_001)
