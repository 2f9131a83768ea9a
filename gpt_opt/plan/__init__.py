"""From a sweep file to its plan: every point composed, checked, identified and compared with what exists.

Input: a `Grid` (gpt_opt.sweep) or the overrides of a command line. Output: all problems of all points, or a `Plan` of
distinct runs with their ids, directories, status, shapes and cost. Next stage: `run`, which executes one of them.
"""
