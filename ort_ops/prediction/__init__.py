"""Predict for the rows of a file: the work of `mylinear run`."""
