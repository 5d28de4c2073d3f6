"""What every training file must pass before it is written: one step, compared with torch."""
