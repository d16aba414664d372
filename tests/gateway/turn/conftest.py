"""Turns on scripted workers."""

from tests.gateway.scripted.checks import stages

__all__ = ["stages"]
