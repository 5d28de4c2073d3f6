"""Training in plain onnxruntime; none of these tests but those named for it imports torch."""
