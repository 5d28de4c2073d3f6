"""Run MYLINEAR models in ONNX Runtime; never imports torch."""
