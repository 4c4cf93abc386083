#!/bin/sh
# One run as a Kubernetes Job: ct-etl run with these arguments.
#
# Exit status 3 says that the run is finished and some series failed; to try again would find the same. It is written
# where `kubectl get pod -o yaml` shows it, and the pod ends with 0. Whatever else is not 0 is tried again: a lock
# that a killed pod left goes stale within a minute, and finished series are not done twice.
set -eu
status=0
trap '[ -z "${run:-}" ] || kill -TERM "$run"' TERM INT
ct-etl run "$@" &
run=$!
wait "$run" || status=$?
while kill -0 "$run" 2>/dev/null; do
    status=0
    wait "$run" || status=$?
done
if [ "$status" -eq 3 ]; then
    echo 'ct-etl ended with 3: finished, but some series failed; see the ledger' | tee "${TERMINATION_LOG:-/dev/termination-log}"
    status=0
fi
exit "$status"
