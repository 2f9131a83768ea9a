"""Optimizers compared: final loss against learning rate, the best of each, whether its grid is wide enough.

Input: run directories of a sweep. Output: a table, a figure, and sweep files of what to run next: learning rates beyond
the edges at which optima lie, further seeds at the best points. `python -m analysis.sensitivity` is the command.
"""
