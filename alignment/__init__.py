"""Making pairs fit: crop, find, register."""
