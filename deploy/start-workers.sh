#!/bin/sh
# Start one worker process per core in the foreground; they end with Ctrl-C, SIGTERM or their scheduler.
#
#   [HOST=127.0.0.1] [WORKERS=cores] [MEMORY=auto] [TLS_DIR=folder] [VENV=.venv] \
#       deploy/start-workers.sh [SCHEDULER_ADDRESS] [more options of `dask worker`]
#
# HOST is this machine's address as the scheduler and the other workers reach it. SCHEDULER_ADDRESS is
# tcp://127.0.0.1:8786 when left out (tls:// with TLS_DIR). MEMORY is the limit per process: "4GiB", or auto for
# this machine's memory divided by its cores.
set -eu

CT_ETL_DEPLOY=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
# shellcheck source-path=SCRIPTDIR source=environment.sh
. "$CT_ETL_DEPLOY/environment.sh"
# shellcheck source-path=SCRIPTDIR source=checks.sh
. "$CT_ETL_DEPLOY/checks.sh"

host=${HOST:-127.0.0.1}
require_safe_host "$host"
python=$(find_python)

address=$(protocol)://127.0.0.1:8786
case "${1:-}" in
    tcp://* | tls://*) address=$1; shift ;;
    '' | -*) ;;
    *) stop "SCHEDULER_ADDRESS $1: begins with tcp:// or tls://" ;;
esac
case "$address" in
    "$(protocol)"://*) ;;
    *) stop "SCHEDULER_ADDRESS $address: with TLS_DIR it is tls://, without it tcp://" ;;
esac

# The CPU count is Dask's own: it respects the limits of containers and of batch systems.
workers=${WORKERS:-$("$python" -c 'from dask.system import CPU_COUNT; print(CPU_COUNT)')}

# The nanny restarts a process that dies or outgrows its memory. Even without the dashboard a worker serves its
# state over HTTP, on every interface unless it is given an address.
exec "$python" -m dask worker "$address" \
    --host "$host" --protocol "$(protocol)" --nworkers "$workers" --nthreads 1 --memory-limit "${MEMORY:-auto}" \
    --nanny --no-dashboard --dashboard-address 127.0.0.1:0 --death-timeout 60 "$@"
