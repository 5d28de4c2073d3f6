"""MYLINEARGRAD in torch: the library op that the backward of MYLINEAR's library op calls, and its own derivative."""
