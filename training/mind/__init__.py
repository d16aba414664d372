"""The thinker of the tiny checkpoint: what it is taught, how, and how well it does."""
