"""The commands of a vehicle: parse, call, print."""
