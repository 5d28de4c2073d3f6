"""Rewrite ONNX graphs: adopt our operators, or lower them to standard ones."""
