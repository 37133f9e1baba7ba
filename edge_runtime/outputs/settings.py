"""What the configs of outputs share: names, secrets and certificates.

A config holds where a secret lies (a file or an environment variable), never the secret; it is read when the
output opens. Leaves out: the configs themselves, each beside its output.
"""

from __future__ import annotations

import os
import ssl
from pathlib import Path

from diagline.errors import ConfigError


def check_name(key: str, name: str) -> None:
    """Refuse an output's name that cannot be part of a file's."""
    if not name.replace("-", "").replace("_", "").isalnum() or not name.isascii():
        raise ConfigError(f"{key} = {name!r}; expected letters, digits, - and _ (it names files)")


def check_one_place(key: str, file: Path | None, variable: str) -> None:
    """Refuse a secret that is to come from two places."""
    if file is not None and variable:
        raise ConfigError(f"{key}_file and {key}_variable: both are set; expected one; leave the other out")


def read_secret(key: str, file: Path | None, variable: str) -> str | None:
    """The secret, without white space around it; None where neither place is given.

    Raises:
        ConfigError: it is not there, or is not one line of printable ASCII; the message never holds it.
    """
    if file is None and not variable:
        return None
    place = f"{key}_file = {str(file)!r}" if file is not None else f"{key}_variable = {variable!r}"
    try:
        text = file.read_bytes() if file is not None else os.environb.get(os.fsencode(variable))
    except OSError as error:
        raise ConfigError(f"{place}: {error.strerror}; expected a file that holds the secret alone") from error
    if text is None:
        raise ConfigError(f"{place}: not set; expected the secret in this environment variable; set it")
    secret = text.decode("ascii", "replace").strip()
    if not secret or not secret.isascii() or not secret.isprintable():
        raise ConfigError(f"{place}: holds no secret; expected one line of printable ASCII")
    return secret


def tls_context(key: str, ca: Path | None, cert: Path | None, private_key: Path | None) -> ssl.SSLContext:
    """What a client checks the other side with, and shows of itself.

    Args:
        ca: PEM of who is trusted; None: whom the system trusts.
        cert: PEM of the client's own certificate; None: it shows none.
        private_key: PEM of its key, without a passphrase; None: it is in `cert`.

    Raises:
        ConfigError: a file cannot be used.
    """
    try:
        context = ssl.create_default_context(cafile=ca)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"{key}.ca = {str(ca)!r}: {_why(error)}; expected PEM certificates") from error
    if cert is not None:
        try:
            context.load_cert_chain(cert, private_key, password="")  # a passphrase would be asked for on the terminal
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(
                f"{key}.cert = {str(cert)!r}, key = {str(private_key or cert)!r}: {_why(error)}; "
                "expected PEM, the key without a passphrase"
            ) from error
    return context


def _why(error: OSError) -> str:
    return getattr(error, "reason", None) or error.strerror or "cannot be read"
