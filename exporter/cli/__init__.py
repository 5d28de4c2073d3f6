"""The commands that need torch; `ort_ops.cli` finds them by the entry point ``mylinear.commands``."""

COMMANDS = {
    "demo": "train, export, run and verify the example from one end to the other",
    "train": "train a small network of our layers",
    "export": "export a checkpoint to ONNX",
    "verify": "prove that training and serving compute the same",
    "check": "prove every promise of an operator: schema, body, kernels, gradients, export, runtimes",
    "bench": "time our operators beside their peers and the machine's ceilings",
}
