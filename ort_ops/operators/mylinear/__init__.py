"""MYLINEAR, ``Y = X W^T + B``: contract, reference, error bound, samples and Python kernel."""
