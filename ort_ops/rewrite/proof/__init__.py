"""Prove that a rewritten model means what it meant. Names no operator."""
