"""An output that posts each record as JSON to an address.

2xx is delivered. 4xx is refused, and the spool goes on with the next record, except 408 and 429, which like
5xx, a timeout or no connection mean: again later. Leaves out: following redirects (a POST would become a GET,
or leave for another host), reading answers, and waiting (`spool.py`).
"""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

from diagline.config_checks import within
from diagline.errors import ConfigError, OutputError
from edge_runtime.outputs.base import Record
from edge_runtime.outputs.settings import check_name, check_one_place, read_secret, tls_context
from edge_runtime.outputs.spool import RefusedError

REFUSES = (400, 413, 422)
"""Answers about one record. Others (a token not taken, a receiver that is not well) are about all, and pass."""


@dataclass(frozen=True, slots=True)
class WebhookConfig:
    """Where records are posted.

    Attributes:
        url: http or https; may itself be a secret, so it is in no message and not in the repr.
        name: as metrics and log name it.
        token_file: file with a bearer token; None: none from a file.
        token_variable: environment variable with it; "": none from there.
        ca: PEM of who is trusted with https; None: whom the system trusts.
        timeout_s: the longest wait for the other side to take or say something.
    """

    url: str = field(repr=False)
    name: str = "webhook"
    token_file: Path | None = None
    token_variable: str = ""
    ca: Path | None = None
    timeout_s: float = 5.0

    def __post_init__(self) -> None:
        check_name("webhook.name", self.name)
        check_one_place("webhook.token", self.token_file, self.token_variable)
        within("webhook.timeout_s", self.timeout_s, 0.01, 120.0)
        try:
            parts = urllib.parse.urlsplit(self.url)
            usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:  # a port that is none, a bracket that stays open
            usable = False
        if not usable or not self.url.isascii() or not self.url.isprintable() or " " in self.url:
            raise ConfigError("webhook.url: cannot be used; expected http://host/path or https://host/path in ASCII")
        if parts.username is not None:
            raise ConfigError("webhook.url: holds a user name; expected none; use token_file or token_variable")


class Webhook:
    """Posts; one connection a record."""

    def __init__(self, config: WebhookConfig) -> None:
        """Read the token; nothing is sent yet.

        Raises:
            ConfigError: token or `ca` cannot be read.
        """
        self.name, self._config = config.name, config
        parts = urllib.parse.urlsplit(config.url)
        self._where = f"{self.name}: {parts.scheme}://{parts.hostname}" + (f":{parts.port}" if parts.port else "")
        self._headers = {"Content-Type": "application/json", "User-Agent": "diagline"}
        token = read_secret("webhook.token", config.token_file, config.token_variable)
        if token is not None:
            self._headers["Authorization"] = f"Bearer {token}"
        self._opener = urllib.request.build_opener(
            _NoRedirects, urllib.request.HTTPSHandler(context=tls_context("webhook", config.ca, None, None))
        )

    def send(self, record: Record) -> None:
        """Post one record; returns at the head of a 2xx answer.

        Raises:
            RefusedError: the receiver takes all but this record.
            OutputError: it did not arrive.
        """
        request = urllib.request.Request(self._config.url, json.dumps(record).encode(), self._headers, method="POST")
        try:
            with self._opener.open(request, timeout=self._config.timeout_s) as answer:
                code = answer.status
        except urllib.error.HTTPError as error:
            code = error.code
            error.close()
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            why = reason.strerror if isinstance(reason, OSError) and reason.strerror else type(reason).__name__
            raise OutputError(f"{self._where}: {why}; expected an answer within {self._config.timeout_s:g} s") from None
        if 200 <= code < 300:
            return
        if 300 <= code < 400:
            raise OutputError(f"{self._where}: answered {code}, a redirect; put the address it leads to into url")
        if code in REFUSES:
            raise RefusedError(f"{self._where}: answered {code}; the record is dropped; expected 2xx")
        raise OutputError(f"{self._where}: answered {code}; expected 2xx")

    def close(self) -> None:
        """Nothing is held between records."""


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: object, **named: object) -> None:
        return None


def open_output(config: WebhookConfig) -> Webhook:
    """The output a config describes; raises as `Webhook`."""
    return Webhook(config)
