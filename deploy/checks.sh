# shellcheck shell=sh
# What both start scripts ask before they start anything.

stop() {
    echo "${0##*/}: $1" >&2
    exit 2
}

protocol() {
    if [ -n "${TLS_DIR:-}" ]; then echo tls; else echo tcp; fi
}

# Dask's protocol carries pickled code: whoever reaches the port can run commands as this user.
require_safe_host() {
    case "$1" in
        0.0.0.0 | :: | '*') stop "HOST $1 listens on every interface; give one private address" ;;
        127.* | localhost | ::1) ;;
        *)
            if [ -z "${TLS_DIR:-}" ] && [ "${PLAIN_TCP:-}" != yes ]; then
                stop "HOST $1 can be reached by others: set TLS_DIR (make-certificates.sh), or PLAIN_TCP=yes on a network that you trust whole"
            fi
            ;;
    esac
    if [ -n "${TLS_DIR:-}" ]; then
        for file in ca.pem cluster.pem cluster-key.pem; do
            [ -r "$TLS_DIR/$file" ] || stop "TLS_DIR $TLS_DIR: $file cannot be read"
        done
    fi
}

find_python() {
    python=${VENV:-$CT_ETL_DEPLOY/../.venv}/bin/python
    "$python" -c 'import distributed, etl' 2>/dev/null || stop "$python does not run or lacks ct-etl; make venv creates it"
    echo "$python"
}
