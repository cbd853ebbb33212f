"""Networks that are not built in: factories of one's own, and other libraries', each an optional extra."""
