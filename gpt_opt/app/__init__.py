"""Applications: training programs that gpt-opt runs without having been written for it.

Input: the `gptopt.toml` in the root of their repository. Output: `AppSettings`, which say how one is composed, started,
resumed and measured. Next stages: gpt_opt.plan composes its configs, gpt_opt.run starts and supervises its processes.
Nothing here imports an application, or knows Slurm.
"""
