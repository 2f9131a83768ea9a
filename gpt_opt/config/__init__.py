"""What may be configured: the typed keys, the constraints between them, and the messages and suggestions for what is wrong.

Input: nothing. Output: schemas in Hydra's ConfigStore and lists of `Problem`. Next stage: `run`.
"""
