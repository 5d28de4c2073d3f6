"""ADAMSTEP in torch: the library op by which an exported training step has one node for each parameter's update."""
