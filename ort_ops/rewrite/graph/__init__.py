"""Look into graphs and change them, as `adopt`, `lower` and the patterns of operators do. Names no operator."""
