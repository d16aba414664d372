"""What the gateway costs a turn and a frame, and how many of each one core carries."""
