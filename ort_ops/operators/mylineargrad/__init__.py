"""MYLINEARGRAD, the gradient of MYLINEAR: `contract` defines it."""
