#!/bin/sh
# Start the Dask scheduler in the foreground; it ends with Ctrl-C or SIGTERM.
#
#   [HOST=127.0.0.1] [PORT=8786] [DASHBOARD_PORT=8787] [TLS_DIR=folder] [VENV=.venv] \
#       deploy/start-scheduler.sh [more options of `dask scheduler`]
#
# HOST is the address to listen on. Whoever reaches the port can run code as this user: see deploy/README.md.
set -eu

CT_ETL_DEPLOY=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
# shellcheck source-path=SCRIPTDIR source=environment.sh
. "$CT_ETL_DEPLOY/environment.sh"
# shellcheck source-path=SCRIPTDIR source=checks.sh
. "$CT_ETL_DEPLOY/checks.sh"

host=${HOST:-127.0.0.1}
require_safe_host "$host"
python=$(find_python)

# The dashboard has no password: it stays on this machine, and ssh -L brings it to another.
exec "$python" -m dask scheduler \
    --host "$host" --protocol "$(protocol)" --port "${PORT:-8786}" \
    --dashboard-address "127.0.0.1:${DASHBOARD_PORT:-8787}" "$@"
