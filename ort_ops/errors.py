"""The base of every error that a user can cause; the command line turns it into a message and exit status 2."""


class MylinearError(Exception):
    """An error that the caller can mend; the message says what is wrong, where, and what to do."""


class ModelError(MylinearError, ValueError):
    """The file is not a usable ONNX model, or the model cannot do what is asked of it."""
