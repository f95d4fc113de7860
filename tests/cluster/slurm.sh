#!/usr/bin/env bash
# Runs a grid by Slurm (Debian's slurm-wlm, one node, no accounting) and here, and compares the leaderboards.
#   apt-get install slurm-wlm munge && pip install -e '.[slurm]' && tests/cluster/slurm.sh [preempt]
# It must run as root, in a container of its own: it starts munged, slurmctld and slurmd on 127.0.0.1.
set -euo pipefail
cd "$(dirname "$0")"
python=${PYTHON:-python3}
work=$(mktemp -d)
node=$(hostname -s)
cat > "$work/slurm.conf" <<CONF
ClusterName=dpbench
SlurmctldHost=$node(127.0.0.1)
SlurmctldPort=16817
SlurmdPort=16818
AuthType=auth/munge
AuthInfo=socket=$work/munge.socket
SlurmUser=root
StateSaveLocation=$work/state
SlurmdSpoolDir=$work/spool
SlurmctldPidFile=$work/slurmctld.pid
SlurmdPidFile=$work/slurmd.pid
SlurmctldLogFile=$work/slurmctld.log
SlurmdLogFile=$work/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
JobRequeue=1
SchedulerParameters=sched_interval=1
NodeName=$node NodeAddr=127.0.0.1 CPUs=$(nproc) RealMemory=1000 State=UNKNOWN
PartitionName=all Nodes=$node Default=YES MaxTime=INFINITE State=UP OverSubscribe=FORCE:4
CONF
mkdir -p "$work/state" "$work/spool"
export SLURM_CONF=$work/slurm.conf
end() {
    scancel --user root 2>/dev/null || true
    for one in slurmd slurmctld munged; do [ -f "$work/$one.pid" ] && kill "$(cat "$work/$one.pid")" 2>/dev/null; done
    sleep 2 # until they have closed their logs
    rm -rf "$work"
}
trap end EXIT
dd if=/dev/urandom of="$work/munge.key" bs=1 count=1024 2>/dev/null
chmod 600 "$work/munge.key"
munged --force --socket "$work/munge.socket" --key-file "$work/munge.key" --pid-file "$work/munged.pid" \
    --log-file "$work/munged.log" --seed-file "$work/munge.seed"
chmod 755 "$work"
slurmctld -i
slurmd
for _ in $(seq 60); do sinfo --noheader --format=%T | grep -q idle && break; sleep 1; done
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
