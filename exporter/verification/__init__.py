"""Prove that torch, the reference and every kernel compute the same, within derived bounds."""
