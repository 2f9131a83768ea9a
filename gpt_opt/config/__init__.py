"""What may be configured: typed keys, the constraints between them, and messages and suggestions for mistakes.

Input: nothing. Output: schemas in Hydra's ConfigStore and lists of `Problem`. Next stage: `run`.
"""
