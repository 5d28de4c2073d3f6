"""Backends: who takes part, on which models, on CPU and GPU."""
