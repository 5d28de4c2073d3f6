"""The base of every error that a user can cause; the command line turns it into a message and exit status 2."""


class MylinearError(Exception):
    """Something that the caller can mend; the message says what is wrong, where, and what to do."""


class ModelError(MylinearError, ValueError):
    """A file that is no usable ONNX model, or a model that cannot do what is asked of it."""
