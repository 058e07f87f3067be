"""The two shipped streams."""
