"""Tests of `exporter.operator`."""
