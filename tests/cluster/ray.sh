#!/usr/bin/env bash
# Runs a grid on a Ray cluster of two local nodes, one of which is lost on the way, and here; compares the leaderboards.
#   pip install -e '.[ray]' && tests/cluster/ray.sh
set -euo pipefail
cd "$(dirname "$0")"
python=${PYTHON:-python3}
ray=${RAY:-ray}
work=$(mktemp -d)
port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
export RAY_ADDRESS=127.0.0.2:$port RAY_USAGE_STATS_ENABLED=0 RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=1
trap 'kill $(jobs -p) 2>/dev/null; rm -rf "$work"' EXIT
small=(--num-cpus=1 --node-ip-address=127.0.0.2 --object-store-memory=80000000 --include-dashboard=false)
env -u RAY_ADDRESS $ray start --head --block --port="$port" "${small[@]}" --temp-dir="$work/ray" > "$work/head.log" 2>&1 &
for _ in $(seq 60); do $ray status >/dev/null 2>&1 && break; sleep 1; done
env -u RAY_ADDRESS $ray start --block --address="127.0.0.2:$port" --num-cpus=1 --node-ip-address=127.0.0.3 \
    --object-store-memory=80000000 > "$work/second.log" 2>&1 &
second=$!
for _ in $(seq 60); do $ray status 2>/dev/null | grep -q "2.0 CPU" && break; sleep 1; done

DPBENCH_HOME=$work/ray-home "$python" -m dpbench.cli run grid.yaml --executor ray &
grid=$!
for _ in $(seq 300); do ls "$work"/ray-home/runs/*/done >/dev/null 2>&1 && break; sleep 0.2; done
pkill -KILL -P "$second" || true # the second node is lost
kill -KILL "$second" || true
wait "$grid"
DPBENCH_HOME=$work/local "$python" -m dpbench.cli run grid.yaml --jobs 1
"$python" same.py "$work/local" "$work/ray-home"
