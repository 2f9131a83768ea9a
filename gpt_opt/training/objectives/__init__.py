"""Objectives: what an item, a batch, a loss and its metrics are."""
