#!/usr/bin/env bash
# Starts or ends munged, slurmctld and slurmd (Debian's slurm-wlm) as one node on 127.0.0.1, whose files are in a folder.
#   SLURM_CONF=FOLDER/slurm.conf slurm_node.sh start|end FOLDER
set -euo pipefail
work=$2
if [ "$1" = end ]; then
    scancel --user root 2>/dev/null || true
    for one in slurmd slurmctld munged; do [ -f "$work/$one.pid" ] && kill "$(cat "$work/$one.pid")" 2>/dev/null || true; done
    sleep 2 # until they have closed their logs
    exit 0
fi
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
dd if=/dev/urandom of="$work/munge.key" bs=1 count=1024 2>/dev/null
chmod 600 "$work/munge.key"
munged --force --socket "$work/munge.socket" --key-file "$work/munge.key" --pid-file "$work/munged.pid" \
    --log-file "$work/munged.log" --seed-file "$work/munge.seed"
chmod 755 "$work"
slurmctld -i
slurmd
for _ in $(seq 60); do sinfo --noheader --format=%T | grep -q idle && exit 0; sleep 1; done
tail -1 "$work/slurmctld.log" "$work/slurmd.log" >&2
exit 1
