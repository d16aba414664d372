"""How much one request may hold, over HTTP and over gRPC alike: what is above costs nothing but its reading."""

MAX_MESSAGES = 2048
# Of one message, and of all messages together.
MAX_PARTS = 1024
MAX_ALL_PARTS = 4096
# Of one video given as a list of frames: as many as the processor samples of a video at most.
MAX_FRAMES = 768
