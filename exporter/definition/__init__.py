"""`exporter.operator`: one call makes an operator of a torch function, with everything that torch and ONNX need."""
