"""From an outcome to what happens next, and the headers that carry it. Pure."""
