"""A sealed deployment: a model with its libraries, hashes, a sample and the proof, in one folder."""
