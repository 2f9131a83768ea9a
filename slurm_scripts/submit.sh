#!/usr/bin/env bash
# Runs a sweep file through disBatch over the slots of a Slurm allocation, one run a slot:
#   sbatch slurm_scripts/submit.sh params/beta_sweep.json [overrides...]
#   sbatch -n 8 -p gpu -t 240 slurm_scripts/submit.sh params/beta_sweep.json seed=1
# Without sbatch it submits itself (options before the sweep file go to sbatch); where there is no Slurm it runs the
# sweep on this machine. Ends with 0 only if every run is COMPLETED. The lines of environment.sh are sourced first.
# Whole nodes of 8 GPUs: sbatch -N 2 -n 16 --ntasks-per-node=8 --gres=gpu:8 slurm_scripts/submit.sh SWEEP.json
#SBATCH --job-name=gptopt
#SBATCH --ntasks=4
#SBATCH --cpus-per-task=1
#SBATCH --gpus-per-task=1
#SBATCH --output=gptopt-%j.out
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR2@120
set -euo pipefail
trap '' USR2 # of a limit below the two minutes of warning, Slurm warns before gptopt listens, which is no end of the job

# Prints the repository. Slurm runs a copy of this script from its spool folder, so $0 is of use outside of jobs only.
find_root() {
  local candidate command
  for candidate in "${GPTOPT_ROOT:-}" "$(dirname "$(readlink -f "$0")")/.."; do
    if [ -n "$candidate" ] && [ -f "$candidate/run_hydra.py" ]; then
      (cd "$candidate" && pwd)
      return
    fi
  done
  if [ -n "${SLURM_JOB_ID:-}" ]; then
    command=$(scontrol show job "$SLURM_JOB_ID" | sed -n 's/^ *Command=//p')
    candidate=${command%/submit.sh*}/.. # the arguments follow the path
    if [ -f "$candidate/run_hydra.py" ]; then
      (cd "$candidate" && pwd)
      return
    fi
  fi
  candidate=${SLURM_SUBMIT_DIR:-$PWD}
  while [ "$candidate" != / ]; do
    if [ -f "$candidate/run_hydra.py" ] && [ -f "$candidate/slurm_scripts/submit.sh" ]; then
      echo "$candidate"
      return
    fi
    candidate=$(dirname "$candidate")
  done
  echo "submit.sh: cannot find the gpt-opt repository; submit it by its path, or export GPTOPT_ROOT=/path/to/it" >&2
  return 2
}

GPTOPT_ROOT=$(find_root)
export GPTOPT_ROOT

# Says what stands where a sweep file should, and how a sweep is submitted. $1: what; $2...: all arguments.
refuse() {
  local word=$1 sweep=SWEEP.json
  shift
  while [ $# -gt 0 ]; do
    if [[ "$1" == *.json ]]; then sweep=$1; fi
    shift
  done
  echo "submit.sh: a sweep file (.json) comes after the options of sbatch, but $word does; the form is:" \
    "sbatch [sbatch options] slurm_scripts/submit.sh $sweep [overrides]" >&2
  exit 2
}

options=()
before=
while [ $# -gt 0 ] && [[ "$1" == -* || "$1" != *.json ]]; do
  if [[ "$1" != -* ]] && { [[ "$before" != -* || "$before" == *=* ]] || [[ "$1" =~ \.(sh|bash|sbatch|slurm|py|ya?ml)$ ]]; }; then
    refuse "$@"
  fi
  options+=("$1")
  before=$1
  shift
done
if [ $# -eq 0 ]; then
  refuse nothing
fi

file=$1
shift
for place in "${SLURM_SUBMIT_DIR:-$PWD}" "$GPTOPT_ROOT"; do # the first is another than $PWD with sbatch --chdir
  if [ ! -f "$file" ] && [ -f "$place/$file" ]; then
    file=$place/$file
  fi
done
if [ ! -f "$file" ]; then
  echo "submit.sh: $file must be a sweep file, but is neither in $PWD nor in $GPTOPT_ROOT" >&2
  exit 2
fi

for argument in "$@"; do
  if [[ "$argument" == -* && "$argument" != --live ]]; then
    echo "submit.sh: options of sbatch go before the sweep file, but $argument comes after it" >&2
    exit 2
  fi
done
if [ -n "${SLURM_JOB_ID:-}" ] && [ ${#options[@]} -gt 0 ]; then
  echo "submit.sh: this job has its resources already; options of sbatch (${options[*]}) go before submit.sh" >&2
  exit 2
fi

set +u # module files and activation scripts read variables that may be unset
# shellcheck source=slurm_scripts/environment.sh
. "$GPTOPT_ROOT/slurm_scripts/environment.sh"
set -u
if ! command -v gptopt >/dev/null; then
  echo "submit.sh: gptopt is not on the PATH; run make in $GPTOPT_ROOT, or complete slurm_scripts/environment.sh" >&2
  exit 2
fi

if [ -z "${SLURM_JOB_ID:-}" ] && command -v sbatch >/dev/null; then
  # What is wrong with the sweep, or with Slurm, is told before a job waits for it.
  scripts=$(gptopt submit "$file" "$@" --backend disbatch --dry-run)
  if [ "$(grep -c '^exec gptopt drive ' <<<"$scripts")" -gt 1 ]; then
    echo "submit.sh: the runs of $file need different resources, but this makes one allocation for all of them;" \
      "an allocation for each: gptopt submit $file $*" >&2
    exit 2
  fi
  exec sbatch ${options[@]+"${options[@]}"} "$GPTOPT_ROOT/slurm_scripts/submit.sh" "$file" "$@"
fi

slots=()
if [ -z "${SLURM_JOB_ID:-}" ]; then
  for ((i = 0; i < ${#options[@]}; i++)); do
    case ${options[i]} in
      -n | --ntasks) slots=(--slots "${options[i + 1]}") ;;
      -n?*) slots=(--slots "${options[i]#-n}") ;;
      --ntasks=*) slots=(--slots "${options[i]#*=}") ;;
    esac
  done
fi
# exec: the warning before the time limit goes to the batch process alone.
exec gptopt drive "$file" "$@" ${slots[@]+"${slots[@]}"} # bash before 4.4 calls an empty array unbound
