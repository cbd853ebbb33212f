"""Where results go; several sinks may be open at once."""
