"""Measure: what is timed, beside which peers, and on which machine."""
