"""Check a model that was read, so that all later code can rely on it."""
