"""A decoder that a file has taken over: what it tries, and the processes that it tries it from."""
