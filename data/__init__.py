"""Weights that ship with the code, found through `importlib.resources`."""
