"""What onnxruntime has no kernel for in float64, in other operators."""
