"""The benchmark behind `mylinear bench`: MYLINEAR's C++ kernels beside their peers and the machine's ceilings.

In `measure`, `cells` says what is measured, `sides` who takes part, `timing` how, and `ceilings` what the machine can
do; `runner` runs everything and can be interrupted; `goals` judges. `show` makes tables, drawings and pages. torch and
openvino are peers if they are installed; nothing here needs them.
"""
