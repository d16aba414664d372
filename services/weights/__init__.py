"""Downloads a checkpoint from ModelScope into a folder. It checks each file and resumes where an earlier run stopped;
for Hugging Face, use `hf`."""
