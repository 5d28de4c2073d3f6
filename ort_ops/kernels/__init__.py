"""What can run an operator here, and how a session gets it."""
