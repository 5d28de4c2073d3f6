"""ONNX models: read them, walk over them, check them, complete them."""
