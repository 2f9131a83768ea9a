"""gpt-opt's own training as one application among others: what plan and dispatch cannot know of it by themselves.

Only those who start it import this: the command line, the Python interface, run_hydra.py and the launcher.
"""
