"""Outputs of a model and their gradients as one ONNX file, without a loss, a state or an optimizer."""
