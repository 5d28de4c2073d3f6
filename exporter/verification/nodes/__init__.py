"""Each node alone: what it is run on, what must come out of it, and its gradients."""
