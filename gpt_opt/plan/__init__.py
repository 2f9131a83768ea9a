"""Every point of a request checked before anything starts.

Input: override lists, one a point. Output: all their problems. Next stage: `run`, which executes one point.
"""
