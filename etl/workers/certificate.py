"""The certificate by which the processes of one run know each other; it lives in their memory alone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from distributed import Security

# Dask's own begins to hold when it is made: once a machine's clock was set back, no process of the run could
# reach another, and a run that was starting its workers waited for ever.
SET_BACK = timedelta(days=7)
LONGEST_RUN = timedelta(days=365)


def temporary_security() -> Security:
    """Make a key and a certificate for all parts of a cluster, of which nothing is written anywhere."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ct-etl")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - SET_BACK)
        .not_valid_after(now + LONGEST_RUN)
        .sign(key, hashes.SHA256())
    )
    certificate_pem = certificate.public_bytes(serialization.Encoding.PEM).decode()
    key_pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    pairs = {
        f"tls_{role}_{part}": pem
        for role in ("client", "scheduler", "worker")
        for part, pem in (("cert", certificate_pem), ("key", key_pem))
    }
    return Security(require_encryption=True, tls_ca_file=certificate_pem, **pairs)
