"""A TLS context from the settings' files, for the clients that take Python's own."""

from __future__ import annotations

import ssl

from sluicegate.errors import ConfigurationError
from sluicegate.secret_files import read_secret
from sluicegate.settings.section import TlsFiles


def tls_context(files: TlsFiles, *, section: str) -> ssl.SSLContext:
    """Return a context that checks the server's certificate and name, and shows ours if there is one.

    Raises ConfigurationError that names the file which holds nothing of use; `section` is where it is set.
    """
    try:
        context = ssl.create_default_context(cafile=files.ca_file)
    except (OSError, ssl.SSLError) as exc:
        raise ConfigurationError(
            f"{section}.ca_file {files.ca_file}: no certificates can be read ({exc.strerror})"
        ) from exc
    if files.certificate_file is None:
        return context
    password_file = files.key_password_file
    password = (
        None if password_file is None else read_secret(password_file, setting=f"{section}.key_password_file")
    )
    try:
        # Without a password OpenSSL would ask on the terminal: an encrypted key without one is an error.
        context.load_cert_chain(files.certificate_file, files.key_file, password=password or "")
    except (OSError, ssl.SSLError) as exc:
        raise ConfigurationError(
            f"{section}.certificate_file {files.certificate_file} and key_file {files.key_file}: "
            f"they cannot be used together ({exc.strerror or 'wrong password'})"
        ) from exc
    return context
