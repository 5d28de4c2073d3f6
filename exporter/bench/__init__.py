"""The benchmark behind `mylinear bench`: our C++ kernels beside their peers and the machine's ceilings.

In `measure`, `cells` says what is measured, `timing` how, and `ceilings` what the machine can do; `runner` runs
everything and can be interrupted; `goals` judges. `backends` has those that take part, `parts` what is measured beside
the grid, and `show` makes tables, drawings and pages. torch and openvino are peers if they are installed; nothing here
needs them.
"""
