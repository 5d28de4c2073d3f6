"""Export one training step, forward, loss, backward and optimizer, as ONNX files that any onnxruntime runs."""
