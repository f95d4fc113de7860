#!/usr/bin/env bash
# Runs a grid by Slurm (Debian's slurm-wlm, one node, no accounting) and here, and compares the leaderboards.
#   apt-get install slurm-wlm munge && pip install -e '.[slurm]' && tests/cluster/slurm.sh [preempt]
# It must run as root, in a container of its own: it starts munged, slurmctld and slurmd on 127.0.0.1.
set -euo pipefail
cd "$(dirname "$0")"
python=${PYTHON:-python3}
work=$(mktemp -d)
export SLURM_CONF=$work/slurm.conf
trap 'bash slurm_node.sh end "$work"; rm -rf "$work"' EXIT
bash slurm_node.sh start "$work"
sinfo

export DPBENCH_HOME=$work/slurm
"$python" -m dpbench.cli run grid.yaml --executor slurm --executor-option mem=100 &
if [ "${1:-}" = preempt ]; then # the first job is told that it must go; Slurm starts it again after some two minutes
    for _ in $(seq 120); do squeue --noheader --states=running --format=%i | grep -q . && break; sleep 1; done
    job=$(squeue --noheader --array --states=running --format=%i | head -1)
    for _ in $(seq 60); do scancel --signal=USR2 "$job" && break; sleep 1; done # while its step starts, it cannot be told
    for _ in $(seq 30); do squeue --noheader --array --states=pending --format=%i | grep -qx "$job" && break; sleep 1; done
    squeue --array
fi
wait $!
DPBENCH_HOME=$work/local "$python" -m dpbench.cli run grid.yaml --jobs 1
"$python" same.py "$work/local" "$work/slurm"
