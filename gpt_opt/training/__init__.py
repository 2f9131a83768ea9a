"""The work itself: model, data, loss, optimizer, and the loop of transformers.Trainer around them.

Input: a resolved config and two places to write to. Output: checkpoints, metrics.jsonl and a `Result`. Nothing in
here knows of Slurm, sweeps or run identity. torch and transformers are imported nowhere else.
"""

import os

# Threads that wait for each other by spinning starve whoever shares the cores: two runs of two threads on two cores
# lose half of their speed to it, a run alone loses nothing. It is read once, when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
