"""MYLINEAR of version 2: 16-bit weights under float32, and an activation of the sum before it is rounded."""
