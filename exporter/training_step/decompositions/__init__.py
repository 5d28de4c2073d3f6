"""How operations of ATen that torch's exporter has no translation for, or a wrong one, are written in others."""
