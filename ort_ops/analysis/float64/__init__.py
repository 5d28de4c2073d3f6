"""The parts of a float64 run: the evaluator, what it knows of each value, and how it perturbs results."""
