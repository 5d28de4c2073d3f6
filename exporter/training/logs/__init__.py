"""Show the course of a training in other tools: TensorBoard and MLflow."""
