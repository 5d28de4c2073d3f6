"""Train small networks: loop, options, metrics, checkpoints and data."""
