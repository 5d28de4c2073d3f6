"""The packages that this one needs, and the optional ones."""
