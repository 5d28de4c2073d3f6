"""Kernels written in Python: the decorator, and what runs when onnxruntime calls one."""
