"""The two stages of a run: training on the old camera, adaptation to the new one."""
