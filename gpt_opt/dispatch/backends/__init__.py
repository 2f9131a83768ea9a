"""How slots for a sweep are asked for: disBatch in an allocation, submitit jobs, this machine."""
