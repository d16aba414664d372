"""Conversations that lose a worker in mid-speech and then their gateway in mid-answer, and go on."""
