"""Train in onnxruntime: files that hold a whole training step, and the loop that runs them. No torch."""
