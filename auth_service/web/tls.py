"""TLS of the HTTP server: a certificate from files, which are read again when they change.

Replacing the files renews the certificate for new connections. If the new files are invalid, this
is logged and the previous certificate stays in use; `rpc.tls` does the same for gRPC.
"""

import ssl
from pathlib import Path

import structlog

from auth_service.errors import ConfigError

__all__ = ["Certificate"]

log = structlog.get_logger(__name__)


class Certificate:
    """A certificate chain and its key in files.

    With `client_authorities`, clients are asked for a certificate and may go without one.
    """

    def __init__(self, chain: Path, key: Path, client_authorities: Path | None = None) -> None:
        """Read the files; raises ConfigError if they cannot be used."""
        self._files = chain, key
        self._authorities = client_authorities
        try:
            self._seen = self._stamp()
            self.context = self._current = self._read()
            """The context of the listening socket."""
        except OSError as error:  # ssl.SSLError is one
            raise ConfigError(
                f"the TLS files cannot be used: {error}; AUTH_TLS_CERT_FILE and AUTH_TLS_KEY_FILE "
                "must be a certificate chain and its unencrypted key, in PEM, and "
                "AUTH_TLS_CLIENT_CA_FILE certificates of authorities"
            ) from error
        self.context.sni_callback = self._show

    def _show(self, connection: ssl.SSLObject, *_: object) -> None:
        """Give a new connection the current certificate; called at each handshake."""
        try:
            if (stamp := self._stamp()) != self._seen:
                self._seen = stamp
                # A new context, because one that failed to load a pair has no certificate left.
                self._current = self._read()
                log.info("certificate_reloaded", file=str(self._files[0]))
        except OSError as error:
            log.error("certificate_reload_failed", error=str(error))  # noqa: TRY400 - no traceback
        connection.context = self._current

    def _read(self) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        # Without a password OpenSSL would ask for the one of an encrypted key on the terminal.
        context.load_cert_chain(*self._files, password="")
        if self._authorities is not None:
            context.load_verify_locations(self._authorities)
            context.verify_mode = ssl.CERT_OPTIONAL
        return context

    def _stamp(self) -> list[tuple[int, int, int]]:
        files = [file for file in (*self._files, self._authorities) if file is not None]
        stats = [file.stat() for file in files]
        return [(each.st_mtime_ns, each.st_ino, each.st_size) for each in stats]
