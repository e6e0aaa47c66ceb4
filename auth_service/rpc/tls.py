"""TLS: server credentials from files, which are read again when they change.

Replacing the files renews the certificate for new connections; open connections stay open. If the
new files are invalid, this is logged and the previous certificate stays in use.
"""

from pathlib import Path

import grpc
import structlog
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from auth_service.errors import ConfigError

__all__ = ["server_credentials"]

log = structlog.get_logger(__name__)


class _Certificates:
    """The files of one server, and their stamps when they were last read."""

    def __init__(self, chain: Path, key: Path, client_authorities: Path | None) -> None:
        self._chain, self._key, self._authorities = chain, key, client_authorities
        self._seen = self._stamp()

    def read(self) -> grpc.ServerCertificateConfiguration:
        """Return the contents of the files; raises OSError, ValueError or TypeError."""
        chain, key = self._chain.read_bytes(), self._key.read_bytes()
        private = load_pem_private_key(key, None)
        if x509.load_pem_x509_certificates(chain)[0].public_key() != private.public_key():
            raise ValueError(f"{self._key} is not the key of the certificate in {self._chain}")
        authorities = self._authorities.read_bytes() if self._authorities else None
        if authorities is not None:
            x509.load_pem_x509_certificates(authorities)
        return grpc.ssl_server_certificate_configuration([(key, chain)], authorities)

    def read_if_changed(self) -> grpc.ServerCertificateConfiguration | None:
        """Return the contents if the files have changed, else None; called at each handshake."""
        try:
            if (stamp := self._stamp()) == self._seen:
                return None
            configuration = self.read()
        except (OSError, ValueError, TypeError) as error:
            log.error("certificate_reload_failed", error=str(error))  # noqa: TRY400 - no traceback
            return None
        self._seen = stamp
        log.info("certificate_reloaded", file=str(self._chain))
        return configuration

    def _stamp(self) -> list[tuple[int, int, int]]:
        files = [f for f in (self._chain, self._key, self._authorities) if f is not None]
        return [(s.st_mtime_ns, s.st_ino, s.st_size) for s in (f.stat() for f in files)]


def server_credentials(
    chain: Path, key: Path, client_authorities: Path | None = None
) -> grpc.ServerCredentials:
    """Return credentials from PEM files; with authorities, clients must present a certificate.

    Raises ConfigError if the files cannot be used.
    """
    try:
        certificates = _Certificates(chain, key, client_authorities)
        initial = certificates.read()
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(
            f"the TLS files cannot be used: {error}; AUTH_TLS_CERT_FILE and AUTH_TLS_KEY_FILE "
            "must be a certificate chain and its unencrypted key, in PEM"
        ) from error
    return grpc.dynamic_ssl_server_credentials(
        initial,
        certificates.read_if_changed,  # type: ignore[arg-type] # None means no change
        require_client_authentication=client_authorities is not None,
    )
