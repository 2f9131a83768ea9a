"""The work itself: model, data, loss, optimizer, and the loop of transformers.Trainer around them.

Input: a resolved config and two places to write to. Output: checkpoints, metrics.jsonl and a `Result`. Nothing in
here knows of Slurm, sweeps or run identity. torch and transformers are imported nowhere else.
"""
