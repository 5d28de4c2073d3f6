"""Compare numbers with exact ones: the one comparator, and statistics of errors."""
