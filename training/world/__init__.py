"""The small world that the tiny model knows: its words, its facts, its sentences, its tokenizer."""
