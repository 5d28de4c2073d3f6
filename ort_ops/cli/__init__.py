"""The command line. Serving needs no more than this; `exporter.cli` adds the commands that need torch."""
