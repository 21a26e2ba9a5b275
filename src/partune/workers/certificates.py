"""Certificates that close a Dask cluster to others: whoever reaches a scheduler or a worker without one is turned away.

Any process that can talk to a Dask scheduler runs code as the user who started it, and on a shared machine every user
reaches every port of the loopback. So all of a cluster's traffic is TLS, and both sides show the one certificate that
both know. The certificate of worker processes on this machine is in memory only: nothing is left of it, however a run
ends.
"""

from __future__ import annotations

import datetime
import os
import shlex
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from partune.errors import UserError

if TYPE_CHECKING:
    from distributed import Security

CERTIFICATE, KEY = "certificate.pem", "key.pem"
FILES = {"ca-file": CERTIFICATE, "cert": CERTIFICATE, "key": KEY}  # for Dask's own options, --tls-...
VARIABLES = tuple(f"DASK_DISTRIBUTED__COMM__TLS__{name}" for name in ("CA_FILE", "WORKER__CERT", "WORKER__KEY"))
ROLES = ("client", "scheduler", "worker")
YEAR = datetime.timedelta(days=365)


def certified() -> tuple[str, str]:
    """Return a new certificate and its key, in PEM."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())  # in a millisecond; RSA's takes up to a second
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "partune")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        # Valid already a year ago: neither a clock that is set back nor another machine's clock ends a cluster.
        .not_valid_before(now - YEAR)
        .not_valid_after(now + 10 * YEAR)
        # An authority, as each side checks the other's certificate against this one as its only authority.
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return certificate.public_bytes(serialization.Encoding.PEM).decode(), secret.decode()


def security_of(certificate: str, key: str) -> Security:
    """Return Dask's settings for all roles of a cluster.

    Args:
        certificate: A text in PEM, or the name of a file.
        key: The certificate's, likewise.
    """
    from distributed import Security

    files = {f"tls_{role}_{kind}": text for role in ROLES for kind, text in (("cert", certificate), ("key", key))}
    return Security(require_encryption=True, tls_ca_file=certificate, **files)


def environment_of(security: Security) -> Mapping[str, str]:
    """Return the environment variables that tell a Dask worker its certificate.

    Only processes of the same user can read a process's environment. The worker removes the variables from its own
    (`partune.workers.process`), so that the programs which it starts do not inherit them.
    """
    tls = security.get_tls_config_for_role("worker")
    return dict(zip(VARIABLES, (tls["ca_file"], tls["cert"], tls["key"]), strict=True))


def write_certificates(folder: Path) -> None:
    """Write a key and a certificate for scheduler, workers and drivers, in a new folder that only its owner can read.

    Raises:
        UserError: The folder exists, or cannot be written.
    """
    try:
        folder.mkdir(parents=True, mode=0o700)
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror}") from None
    for name, text in zip((CERTIFICATE, KEY), certified(), strict=True):
        with os.fdopen(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)


def read_certificates(folder: Path) -> Security:
    """Return Dask's settings for a folder that `write_certificates` made.

    Raises:
        UserError: A file is missing.
    """
    certificate, key = folder / CERTIFICATE, folder / KEY
    for path in (certificate, key):
        if not path.is_file():
            raise UserError(
                f"no certificates in {folder}: {path.name} is missing (partune certificates FOLDER makes a new folder)"
            )
    return security_of(str(certificate), str(key))


@contextmanager
def temporary_certificates(shared: Path) -> Iterator[Security]:
    """Lend certificates in a folder of `shared`, which a batch system's jobs see too; they end with the context.

    Raises:
        UserError: The folder cannot be written, or its name cannot stand in a job's script.
    """
    try:
        folder = tempfile.TemporaryDirectory(prefix=".partune-tls-", dir=shared)
    except OSError as error:
        raise UserError(f"cannot write certificates for the jobs in {shared}: {error.strerror}") from None
    with folder as path:
        # dask-jobqueue writes the names into the job's script as they are.
        if shlex.quote(path) != path:
            raise UserError(f"{shared} stands in job scripts: give job: shared_temp_directory without blanks or quotes")
        write_certificates(Path(path) / "tls")
        yield read_certificates(Path(path) / "tls")
