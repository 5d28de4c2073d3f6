"""What computes the steps of a training: torch, or onnxruntime."""
