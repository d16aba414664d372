"""What the queues cost Redis, by how much waits; and how many slots a second clients and workers can exchange."""
