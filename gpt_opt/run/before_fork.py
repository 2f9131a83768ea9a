"""What the warm process of a slot does before it forks, by importing this: see `gpt_opt.run.warm`."""

from gpt_opt.run.prepared import prepare_for_forks

prepare_for_forks()
