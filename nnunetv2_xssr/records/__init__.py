"""What lies on disk: atomic files, the records of a selection, splits and rounds, and where all of it lies."""
