"""Try every promise of one operator: `mylinear check`."""
