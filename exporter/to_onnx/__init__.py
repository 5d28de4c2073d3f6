"""Export torch models to ONNX, and check that both agree."""
