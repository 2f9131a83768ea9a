"""Callbacks that report to gpt-opt from within the training loops of others; each needs the package that it is for."""
