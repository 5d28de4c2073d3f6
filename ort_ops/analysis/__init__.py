"""Exact values of a whole graph, and bounds on how far a right runtime may be from them."""
