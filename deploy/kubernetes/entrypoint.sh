#!/bin/sh
# Read what scheduler, workers and submitter agree on, and become the command.
set -eu
# shellcheck source=../environment.sh
. "$CT_ETL_DEPLOY/environment.sh"
exec "$@"
