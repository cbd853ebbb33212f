"""The GPU: its memory, events and graphs, by PyCUDA or cuda-python."""
