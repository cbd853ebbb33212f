"""The live loop, from its source to its sinks."""
