"""ADAMSTEP: one step of Adam or AdamW for one parameter, in one node."""
