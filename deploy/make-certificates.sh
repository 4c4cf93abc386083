#!/bin/sh
# Make the certificates with which scheduler, workers and submitters know each other.
#
#   [DAYS=365] deploy/make-certificates.sh DIR
#
# Writes DIR/ca.pem, DIR/cluster.pem and DIR/cluster-key.pem. Copy DIR to every host, readable by its user alone:
# who holds cluster-key.pem can run code on the cluster. To renew, make a new folder and restart everything.
set -eu
umask 077

[ $# -eq 1 ] || { echo "usage: $0 DIR" >&2; exit 2; }
command -v openssl >/dev/null || { echo "$0: openssl is needed" >&2; exit 1; }
[ ! -e "$1" ] || { echo "$0: $1 exists; it is left alone" >&2; exit 2; }

# Made aside and renamed, so that DIR is whole or not there. The authority's key is not kept: nothing more can be
# signed with it, by anyone.
mkdir -p "$(dirname -- "$1")"
folder=$(mktemp -d "$1.XXXXXX")
trap 'rm -rf "$folder"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

cat >"$folder/openssl.cnf" <<'CONFIG'
[req]
distinguished_name = name
prompt = no
[name]
CN = ct-etl cluster
[authority]
basicConstraints = critical, CA:TRUE, pathlen:0
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[cluster]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth, clientAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
CONFIG
(
    cd "$folder"
    days=${DAYS:-365}
    openssl ecparam -name prime256v1 -genkey -noout -out ca-key.pem
    openssl req -new -x509 -sha256 -days "$days" -config openssl.cnf -extensions authority \
        -subj '/CN=ct-etl cluster authority' -key ca-key.pem -out ca.pem
    openssl ecparam -name prime256v1 -genkey -noout -out cluster-key.pem
    openssl req -new -sha256 -config openssl.cnf -key cluster-key.pem -out cluster.csr
    openssl x509 -req -sha256 -days "$days" -in cluster.csr -CA ca.pem -CAkey ca-key.pem -set_serial 1 \
        -extfile openssl.cnf -extensions cluster -out cluster.pem 2>/dev/null
    openssl verify -CAfile ca.pem cluster.pem >/dev/null
    rm ca-key.pem cluster.csr openssl.cnf
)
mv "$folder" "$1"
echo "$1: ca.pem, cluster.pem, cluster-key.pem, valid for ${DAYS:-365} days"
