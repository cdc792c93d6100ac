"""Comparison with real OCT-A."""
