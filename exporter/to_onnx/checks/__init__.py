"""Checks that every export must pass: counts of nodes, precision, and agreement with torch."""
