"""MYLINEAR in torch: autograd, library operator, functional form and module."""
