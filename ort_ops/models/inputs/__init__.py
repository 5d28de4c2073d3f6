"""Draw inputs that a model can take."""
