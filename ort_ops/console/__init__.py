"""Terminals, signals, progress, tables, and text for reports."""
