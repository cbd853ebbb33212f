"""This machine, its packages and programs, and how a command begins and ends."""
