"""The operators of this project, each in a folder of its own. Only these folders know an operator by name."""
