"""Train with the MYLINEAR operator in PyTorch and export it to ONNX."""
