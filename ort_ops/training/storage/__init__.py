"""Training files on the disk: read into the memory that trains, and written from it."""
