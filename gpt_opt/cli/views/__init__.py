"""What a terminal shows: plans, the status of a sweep, logs."""
