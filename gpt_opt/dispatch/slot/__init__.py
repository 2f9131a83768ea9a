"""What every slot of every backend does: takes a run, gives it GPUs, watches it, and records how it ended."""
