"""A post-training YAML of other tools as an experiment of ours: read, translated, composed, checked and written."""
