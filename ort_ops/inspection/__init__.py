"""Say what a model holds, what would run it here, and what is installed."""
