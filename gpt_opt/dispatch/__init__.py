"""From a plan to finished runs on a cluster or on this machine.

Input: a `Plan` (gpt_opt.plan). Output: a sweep directory, jobs that work through it, and what can be said of them.
A backend (disbatch, submitit, local) only asks for slots, an allocation for each shape of what runs need; every slot
calls `slot.Slot.execute`, and whether a run is done, held or lost is decided by the run's own files (gpt_opt.run).
Next stage: analysis/ reads the run directories.
"""
