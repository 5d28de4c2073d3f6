"""The benchmark behind `mylinear bench`: MYLINEAR's C++ kernels beside their peers and the machine's ceilings.

`cells` says what is measured, `backends` who takes part, `timing` how; `ceilings` what the machine can do; `runner`
does it all and can be interrupted; `goals` judges, and `report` and `tables` show. torch and openvino are peers where
they are installed: nothing here needs them.
"""
