"""Make certificates that close a Dask cluster to others: schedulers and workers refuse connections without one.

Any process that can talk to a Dask scheduler can run code as the user who started the scheduler. On a shared machine,
every user can reach every port on the loopback interface. All traffic of a cluster therefore uses TLS, and both sides
must show the same certificate. The certificate of worker processes on this machine is only in memory, so nothing of it
remains after a run, even after a crash.
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
    """Return a new certificate and its key in PEM format."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())  # takes a millisecond; an RSA key takes up to a second
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "partune")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        # Begin a year ago, so that a clock that is set back, or another machine's clock, does not end a cluster.
        .not_valid_before(now - YEAR)
        .not_valid_after(now + 10 * YEAR)
        # The certificate is its own authority: each side checks the other side's certificate against its own.
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
        certificate: A certificate in PEM format, or the path of its file.
        key: The certificate's key in PEM format, or the path of its file.
    """
    from distributed import Security

    files = {f"tls_{role}_{kind}": text for role in ROLES for kind, text in (("cert", certificate), ("key", key))}
    return Security(require_encryption=True, tls_ca_file=certificate, **files)


def environment_of(security: Security) -> Mapping[str, str]:
    """Return the environment variables that pass a certificate to a Dask worker.

    Only the same user can read the environment of a process. The worker removes these variables from its environment
    (`partune.workers.process`), so that programs that it starts do not inherit them.
    """
    tls = security.get_tls_config_for_role("worker")
    return dict(zip(VARIABLES, (tls["ca_file"], tls["cert"], tls["key"]), strict=True))


def write_certificates(folder: Path) -> None:
    """Write a key and a certificate for scheduler, workers and drivers, in a new folder that only its owner can read.

    Raises:
        UserError: The folder exists or cannot be written.
    """
    try:
        folder.mkdir(parents=True, mode=0o700)
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror}") from None
    for name, text in zip((CERTIFICATE, KEY), certified(), strict=True):
        with os.fdopen(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)


def read_certificates(folder: Path) -> Security:
    """Return Dask's settings for certificates that `write_certificates` wrote to a folder.

    Raises:
        UserError: A file is missing.
    """
    certificate, key = folder / CERTIFICATE, folder / KEY
    for path in (certificate, key):
        if not path.is_file():
            raise UserError(
                f"no certificates in {folder}: {path.name} is missing. `partune certificates FOLDER` makes a new folder"
            )
    return security_of(str(certificate), str(key))


@contextmanager
def temporary_certificates(shared: Path) -> Iterator[Security]:
    """Provide certificates for the context. They are in a new folder inside a folder that batch jobs can read.

    Args:
        shared: The folder that the jobs can read.

    Raises:
        UserError: The folder cannot be written, or its path cannot be written into a job script.
    """
    try:
        folder = tempfile.TemporaryDirectory(prefix=".partune-tls-", dir=shared)
    except OSError as error:
        raise UserError(f"cannot write certificates for the jobs in {shared}: {error.strerror}") from None
    with folder as path:
        # dask-jobqueue writes the paths into the job script without quotes.
        if shlex.quote(path) != path:
            raise UserError(
                f"the path {shared} goes into job scripts without quotes: set `shared_temp_directory` under `job` to a "
                "folder whose path has no spaces or quotes"
            )
        write_certificates(Path(path) / "tls")
        yield read_certificates(Path(path) / "tls")
