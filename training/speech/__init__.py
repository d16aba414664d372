"""The model's voice: corpus, codec, code2wav, talker."""
