"""The files that runs and sweeps leave on disk, one module a file: its reader and its writer together.

Input: values of the stages above. Output: durable records, and tolerant reads of them. `run`, `plan`, `dispatch` and
`analysis` all stand on it; nothing here composes a config, trains, or asks Slurm.
"""
