"""Version 2 of MYLINEAR in torch: an activation after the sum, and 16-bit weights under float32."""
