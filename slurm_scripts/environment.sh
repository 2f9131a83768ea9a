# shellcheck shell=bash
# What every job sources before it calls gptopt: put your site's lines here, for example
#   module load cuda/12.4
#   conda activate gpt-opt
# GPTOPT_ROOT is the repository. Afterwards `gptopt` must be on the PATH; without lines of yours the virtual environment
# of the Makefile is used.
if [ -d "$GPTOPT_ROOT/.venv/bin" ]; then
  PATH="$GPTOPT_ROOT/.venv/bin:$PATH"
fi
