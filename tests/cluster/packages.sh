#!/usr/bin/env bash
# Installs the Debian packages of the test cluster, and starts none of their services; a C++ compiler and Chromium.
# Always ends with 0 where it cannot: the tests that need them are then skipped, those of Slurm fail where CI is set.
set -euo pipefail
export PATH="$PATH:/usr/sbin:/sbin" DEBIAN_FRONTEND=noninteractive
packages=(slurm-wlm slurmdbd slurm-wlm-mysql-plugin munge mariadb-server)
policy=/usr/sbin/policy-rc.d

complete() {
  local program
  for program in munged mariadbd mariadb-install-db slurmdbd slurmctld slurmd sacctmgr scontrol sbatch squeue; do
    command -v "$program" >/dev/null || return 1
  done
  [ -n "$(find /usr/lib /usr/lib64 -name accounting_storage_mysql.so -print -quit 2>/dev/null)" ]
}

if ! command -v c++ >/dev/null; then
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null ||
    ! { apt-get update -q && apt-get install -q -y --no-install-recommends g++ libc6-dev python3-dev; }; then
    echo "The tests of DeepSpeed and of compile=true will be skipped: they need apt-get install g++ python3-dev"
  fi
fi
if ! command -v chromedriver >/dev/null; then
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null ||
    ! { apt-get update -q && apt-get install -q -y --no-install-recommends chromium chromium-driver; }; then
    echo "The tests of the report in a browser will be skipped: they need apt-get install chromium chromium-driver"
  fi
fi
if complete; then
  exit 0
fi
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  echo "The Slurm tests will be skipped: they need root and, on Debian or Ubuntu, apt-get install ${packages[*]}"
  exit 0
fi
# A package asks this file whether it may start its service; without the file it may.
if [ ! -e "$policy" ]; then
  trap 'rm -f "$policy"' EXIT
  printf '#!/bin/sh\nexit 101\n' >"$policy"
  chmod 755 "$policy"
fi
if ! { apt-get update -q && apt-get install -q -y --no-install-recommends "${packages[@]}"; }; then
  echo "The Slurm tests will be skipped: apt-get could not install ${packages[*]}"
fi
