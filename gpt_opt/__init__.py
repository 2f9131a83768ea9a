"""gpt-opt: sweeps of language-model training, each distinct run exactly once.

Data flows one way: `config` (typed keys) -> `run` (identity, claim, state) -> `training` (the work itself).
"""
