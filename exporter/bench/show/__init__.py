"""Show measurements: tables, drawings and pages."""
