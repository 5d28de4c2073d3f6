"""Verify each node alone: its inputs, its exact results, and its gradients."""
