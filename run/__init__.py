"""A run: its settings, its files, its log, its predictions."""
