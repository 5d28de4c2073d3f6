"""Measure: what is timed, against whom, and on what machine."""
