"""`python -m gpt_opt.cli` is `gptopt`."""

import sys

from gpt_opt.cli import main

sys.exit(main())
