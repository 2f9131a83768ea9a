"""From a plan to finished runs on a cluster or on this machine.

Input: a `Plan` (gpt_opt.plan). Output: a sweep directory, jobs that work through it, and what can be said of them.
A backend (disbatch, submitit, local) only asks for slots, an allocation for each shape of what runs need; every slot
calls `slot.slot.Slot.execute`, and what a run is, `classify` alone says, from the run's own files. Next stage:
analysis/ reads the run directories.
"""
