#!/usr/bin/env bash
# Runs a grid with 8 workers beside a real MLflow server on PostgreSQL, which is gone for a minute on the way, and checks
# that every finished run is there exactly once.
#   apt-get install postgresql && pip install -e . 'psycopg[binary]' && tests/cluster/mlflow.sh
# It must run as root, which lends PostgreSQL the user postgres; all listens on 127.0.0.1.
set -euo pipefail
cd "$(dirname "$0")"
python=${PYTHON:-python3}
gone=${GONE_S:-60}
work=$(mktemp -d)
chmod 755 "$work"
free() { "$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
database=$(free)
port=$(free)
bin=$(ls -d /usr/lib/postgresql/*/bin | tail -1)
as() { runuser -u postgres -- "$@"; }
install -d -o postgres "$work/pg"
as "$bin/initdb" --pgdata="$work/pg/data" --auth=trust --username=mlflow >/dev/null
as "$bin/pg_ctl" --pgdata="$work/pg/data" --log="$work/pg/log" --wait \
    --options="-p $database -c listen_addresses=127.0.0.1 -k $work/pg" start >/dev/null
end() {
    [ -n "${server:-}" ] && kill -- "-$server" 2>/dev/null
    as "$bin/pg_ctl" --pgdata="$work/pg/data" --mode=immediate stop >/dev/null
    rm -rf "$work"
}
trap end EXIT
as "$bin/createdb" --host=127.0.0.1 --port="$database" --username=mlflow mlflow

export MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false # whose workers would stay behind
serve() {
    setsid "$python" -m mlflow server --backend-store-uri "postgresql://mlflow@127.0.0.1:$database/mlflow" --workers 1 \
        --artifacts-destination "$work/artifacts" --host 127.0.0.1 --port "$port" >>"$work/server.log" 2>&1 &
    server=$!
    for _ in $(seq 180); do curl --silent --fail "http://127.0.0.1:$port/health" >/dev/null && return; sleep 1; done
    return 1
}
export DPBENCH_HOME=$work/home MLFLOW_TRACKING_URI=http://127.0.0.1:$port MLFLOW_HTTP_REQUEST_MAX_RETRIES=1
serve
"$python" -m dpbench.cli run grid.yaml --list-commands >/dev/null
"$python" -m dpbench.cli sync grid --watch --every 3 &
mirror=$!
"$python" -m dpbench.cli run grid.yaml --jobs 8 >"$work/run.log" 2>&1 &
grid=$!
for _ in $(seq 300); do ls "$work"/home/runs/*/done >/dev/null 2>&1 && break; sleep 1; done
kill -- "-$server"
echo "the server is gone for $gone s"
sleep "$gone"
serve
wait "$grid"
wait "$mirror"
"$python" sent.py
