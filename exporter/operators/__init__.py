"""The operators of this project in torch, each in a folder of its own."""
