"""The stages that a turn is served by, each with a queue: the names in Redis, in metrics and in settings."""

STAGES = PREPROCESS, THINKER, TALKER = ("preprocess", "thinker", "talker")
