"""The shared library with the C++ kernels, and its CUDA backend: find, check and describe them."""
