"""The documents stream."""
