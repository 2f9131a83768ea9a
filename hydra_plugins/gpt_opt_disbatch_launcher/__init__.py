"""`hydra/launcher=disbatch`: the points of a Hydra multirun as a sweep, spread over slots by disBatch.

Hydra finds the package by its place in the namespace `hydra_plugins` and imports all of it at every start.
"""
