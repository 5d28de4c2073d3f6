"""The subcommands of `mylinear`: each has `add_arguments` and `run`, and imports what it needs when it runs."""
