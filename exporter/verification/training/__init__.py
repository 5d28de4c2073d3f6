"""Prove a training file: states that a training reaches, several steps in a row, and the model in eval mode."""
