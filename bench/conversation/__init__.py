"""Spoken conversations with gateways that are processes of their own, and what their turns take."""
