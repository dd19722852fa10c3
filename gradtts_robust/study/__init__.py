"""Measuring how well an objective withstands dirty data."""
