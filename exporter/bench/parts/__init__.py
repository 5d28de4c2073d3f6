"""Parts beside the grid: chains, loading, memory, bits, and one whole model."""
