"""Which pairs there are, and what has been made from which file."""
