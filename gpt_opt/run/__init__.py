"""One run: from a resolved config to a finished run directory.

Input: a resolved config. Output: `outputs/<model>/<dataset>/<optimizer>/<label>-<run id>/` with its state, metrics
and summary. Next stage: `analysis`, which reads those directories.
"""
