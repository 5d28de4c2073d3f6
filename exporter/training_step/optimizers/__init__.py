"""The optimizers of torch whose updates can be written into a graph, and how to read them."""
