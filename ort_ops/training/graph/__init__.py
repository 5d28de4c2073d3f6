"""Graphs made of the one in a training file, and what is proven of them."""
