"""What an operator may bring for commands of its own kind: a network to train, a product to time."""
