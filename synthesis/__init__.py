"""Photographs -> files."""
