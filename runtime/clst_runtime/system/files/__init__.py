"""Files that are written whole, and values read from files that others wrote."""
