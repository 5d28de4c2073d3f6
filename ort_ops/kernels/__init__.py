"""Find what can run an operator here, choose, and register it with a session."""
