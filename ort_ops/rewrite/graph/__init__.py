"""Inspect and change graphs, for `adopt`, `lower` and the patterns of operators. Names no operator."""
