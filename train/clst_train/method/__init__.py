"""The method: what the paper would contain. No files, no processes, no command lines."""
