"""Checkpoints: write them, and read them without trusting them."""
