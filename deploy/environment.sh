# shellcheck shell=sh
# Settings shared by the scheduler, the workers and whoever submits. Read it with `. deploy/environment.sh`,
# in the checkout; the start scripts read it themselves. It changes nothing but environment variables.
#
#   TLS_DIR   folder made by make-certificates.sh; when set, everything speaks TLS and nothing else

DASK_CONFIG=${CT_ETL_DEPLOY:-$PWD/deploy}/dask.yaml
if [ ! -r "$DASK_CONFIG" ]; then
    # Dask passes over a missing file in silence.
    echo "environment.sh: no $DASK_CONFIG; read it in the checkout, or set CT_ETL_DEPLOY to this folder" >&2
fi
export DASK_CONFIG

# One process per core does the work: threads inside NumPy, SciPy or Blosc would only fight over the cores.
export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1 BLOSC_NTHREADS=1

if [ -n "${TLS_DIR:-}" ]; then
    export DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION=True
    export DASK_DISTRIBUTED__COMM__TLS__CA_FILE="$TLS_DIR/ca.pem"
    for role in SCHEDULER WORKER CLIENT; do
        export "DASK_DISTRIBUTED__COMM__TLS__${role}__CERT=$TLS_DIR/cluster.pem"
        export "DASK_DISTRIBUTED__COMM__TLS__${role}__KEY=$TLS_DIR/cluster-key.pem"
    done
    unset role
fi
