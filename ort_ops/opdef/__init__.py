"""What an operator is: its description, its schema, and the registry of all operators that are known."""
