"""Decoders of a service that is root."""

from tests.preprocess.taken_over.decoder import main

main()
