"""An output over MQTT, and triggers and commands that come in on the same connection.

Below a prefix: `status` (retained, "online", or "offline" by last will), `verdicts`, one retained topic for each kind
of diagnostic (`counts`), and inbound `trigger` and `command`. QoS 1; a record has arrived when the broker says
so. What comes in is heard only while it is fresh: sessions are clean, and a retained message is ignored. Leaves out:
waiting for a broker that is away (`spool.py`) and what a trigger or command does (`box.py`).
"""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diagline.config_checks import one_of, within
from diagline.errors import ConfigError, OutputError, require
from edge_runtime.camera.frames import stamp
from edge_runtime.outputs.base import Record
from edge_runtime.outputs.settings import check_name, check_one_place, read_secret, tls_context
from edge_runtime.outputs.spool import RefusedError
from edge_runtime.trigger import Trigger

STATUS, VERDICTS, TRIGGER, COMMAND = "status", "verdicts", "trigger", "command"
MOST_BYTES = 4096
"""The longest inbound payload that is read."""
MOST_PACKET_BYTES = 1 << 20
"""The longest packet either way; a broker that speaks MQTT 5 sends us no longer one, and may itself take less."""
MOST_PART_ID = 128
HEAD_BYTES = 32
"""The most a published packet has beside topic and payload."""
PAYLOAD_INVALID = 0x99
"""The reason code of MQTT 5 that no later try mends."""
RECONNECT_S = (1, 30)
CLOSE_WAIT_S = 1.0


@dataclass(frozen=True, slots=True)
class MqttConfig:
    """A broker and what is said to it.

    Attributes:
        host: name or address of the broker.
        port: 0: 1883, or 8883 with TLS.
        name: as metrics and log name it.
        prefix: what every topic begins with; two boxes on one broker need two.
        protocol: "5", or "3.1.1" for a broker that knows no other; that one does not say when it drops a record
            because of its access rules.
        username: "": none.
        password_file: file with the password; None: none from a file.
        password_variable: environment variable with it; "": none from there.
        tls: speak TLS, and check the broker's certificate and name.
        ca: PEM of who is trusted; None: whom the system trusts.
        cert: PEM of the box's own certificate; None: it shows none.
        key: PEM of its key, without a passphrase; None: it is in `cert`.
        timeout_s: the longest wait for a connection, and for an acknowledgement.
        keepalive_s: a box that vanished is offline after one and a half times this.
    """

    host: str
    port: int = 0
    name: str = "mqtt"
    prefix: str = "diagline"
    protocol: str = "5"
    username: str = ""
    password_file: Path | None = None
    password_variable: str = ""
    tls: bool = False
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    timeout_s: float = 5.0
    keepalive_s: int = 30

    def __post_init__(self) -> None:
        check_name("mqtt.name", self.name)
        check_one_place("mqtt.password", self.password_file, self.password_variable)
        one_of("mqtt.protocol", self.protocol, ("5", "3.1.1"))
        within("mqtt.port", self.port, 0, 65535)
        within("mqtt.timeout_s", self.timeout_s, 0.01, 120.0)
        within("mqtt.keepalive_s", self.keepalive_s, 1, 3600)
        if not self.host:
            raise ConfigError("mqtt.host = ''; expected the broker's name or address")
        if not re.fullmatch(r"[^$/+#\s\0][^+#\s\0]{0,199}", self.prefix) or self.prefix.endswith("/"):
            raise ConfigError(
                f"mqtt.prefix = {self.prefix!r}; expected a topic such as plant/line3, without + # $ or spaces"
            )
        if not self.tls and (self.ca or self.cert or self.key):
            raise ConfigError("mqtt.tls = false with ca, cert or key; expected tls = true with these; set it")
        if self.key and not self.cert:
            raise ConfigError("mqtt.key without cert; expected the certificate of the key too; set cert")
        if not self.username and (self.password_file or self.password_variable):
            raise ConfigError("mqtt.username = '' with a password; expected the user it belongs to; set it")


@dataclass(frozen=True, slots=True)
class MqttHealth:
    """How the connection is doing, since the start.

    Attributes:
        connected: the broker knows us now.
        last_error: why it did not, or what it refused; None before the first.
        ignored: inbound messages that were retained, so of unknown age.
        failed: inbound messages whose handler threw.
    """

    connected: bool
    last_error: str | None
    ignored: int
    failed: int


class MqttOutput:
    """One connection to a broker, taken up again by itself; `send` from one thread."""

    def __init__(self, config: MqttConfig) -> None:
        """Start connecting; returns at once, whether or not there is a broker.

        Raises:
            ConfigError: password, ca, cert or key cannot be read.
            MissingExtraError: paho-mqtt is not installed.
        """
        mqtt = require("paho.mqtt.client", "edge")
        self.name, self._config = config.name, config
        self._port = config.port or (8883 if config.tls else 1883)
        self._changed = threading.Condition()
        self._connected = self._closing = False
        self._last_error: str | None = None
        self._ignored = self._failed = 0
        self._heard: list[str] = []
        self._takes_bytes = MOST_PACKET_BYTES
        self._acknowledged: dict[int, Any] = {}
        self._pending: tuple[str, bytes, int] | None = None
        five = config.protocol == "5"
        self._client = client = mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5 if five else mqtt.MQTTv311
        )
        if config.username:
            password = read_secret("mqtt.password", config.password_file, config.password_variable)
            client.username_pw_set(config.username, password)
        if config.tls:
            client.tls_set_context(tls_context("mqtt", config.ca, config.cert, config.key))
        client.will_set(self._topic(STATUS), "offline", qos=1, retain=True)
        client.reconnect_delay_set(*RECONNECT_S)
        client.on_connect, client.on_connect_fail = self._on_connect, self._on_connect_fail
        client.on_disconnect, client.on_publish = self._on_disconnect, self._on_publish
        client.on_subscribe = self._on_subscribe
        properties = None
        if five:
            properties = require("paho.mqtt.properties", "edge").Properties(
                require("paho.mqtt.packettypes", "edge").PacketTypes.CONNECT
            )
            properties.MaximumPacketSize = MOST_PACKET_BYTES
        client.connect_async(config.host, self._port, config.keepalive_s, properties=properties)
        client.loop_start()

    @property
    def connected(self) -> bool:
        """Whether the broker knows us now."""
        return self._connected

    def health(self) -> MqttHealth:
        """How the connection is doing."""
        with self._changed:
            return MqttHealth(self._connected, self._last_error, self._ignored, self._failed)

    def send(self, record: Record) -> None:
        """Publish one record; returns when the broker has acknowledged it.

        A verdict goes to `verdicts`; a record with a `kind` in place of a part id is retained under that word.

        Raises:
            RefusedError: neither of these, or the broker will never take it.
            OutputError: no connection, no acknowledgement, or no right to publish.
        """
        kind = VERDICTS if "part_id" in record else record.get("kind")
        if not isinstance(kind, str) or not re.fullmatch("[a-z_]+", kind) or kind in (STATUS, TRIGGER, COMMAND):
            raise RefusedError(f"{self.name}: a record of kind {kind!r}; expected a verdict or a kind such as counts")
        topic, payload = self._topic(kind), json.dumps(record, separators=(",", ":")).encode()
        timeout_s = self._config.timeout_s
        with self._changed:
            self._changed.wait_for(lambda: self._connected or self._closing, timeout_s)
            if not self._connected or self._closing:
                raise OutputError(self._says(f"no connection ({self._last_error or 'no answer yet'})"))
            if len(topic.encode()) + len(payload) + HEAD_BYTES > self._takes_bytes:
                raise RefusedError(self._says(f"takes packets of {self._takes_bytes} bytes, the record is longer"))
        if self._pending is None or self._pending[:2] != (topic, payload):  # else paho still brings it
            self._acknowledged.clear()
            mid = self._client.publish(topic, payload, qos=1, retain=kind != VERDICTS).mid
            self._pending = (topic, payload, mid)
        mid = self._pending[2]
        with self._changed:
            self._changed.wait_for(lambda: mid in self._acknowledged or self._closing, timeout_s)
            reason = self._acknowledged.pop(mid, None)
        if reason is None:
            raise OutputError(self._says(f"no acknowledgement within {timeout_s:g} s"))
        self._pending = None
        if reason.is_failure:
            kind_of_error = RefusedError if reason.value == PAYLOAD_INVALID else OutputError
            raise kind_of_error(self._says(f"{topic} is refused: {reason}"))

    def listen(self, name: str, on_payload: Callable[[bytes], None]) -> None:
        """Hear `PREFIX/name`, also after a reconnect; the handler runs on paho's thread and must return at once."""

        def heard(client: object, data: object, message: Any) -> None:
            if message.retain:
                self._ignored += 1
                return
            try:
                on_payload(message.payload)
            except Exception as error:  # or the connection's thread would end
                with self._changed:
                    self._failed += 1
                    self._last_error = f"{name}: the handler threw {type(error).__name__}"

        topic = self._topic(name)
        self._client.message_callback_add(topic, heard)
        with self._changed:
            self._heard.append(topic)
            connected = self._connected
        if connected:
            self._client.subscribe(topic, qos=1)

    def close(self) -> None:
        """Say "offline" and leave; returns within a few seconds, also when the broker hangs."""
        with self._changed:
            if self._closing:
                return
            connected, self._closing = self._connected, True
            self._changed.notify_all()
        if connected:
            told = self._client.publish(self._topic(STATUS), "offline", qos=1, retain=True)
            with contextlib.suppress(RuntimeError, ValueError):  # the connection went meanwhile: the last will says it
                told.wait_for_publish(CLOSE_WAIT_S)
        self._client.disconnect()
        stop = threading.Thread(target=self._client.loop_stop, name="mqtt close", daemon=True)
        stop.start()
        stop.join(CLOSE_WAIT_S)

    def _topic(self, name: str) -> str:
        return f"{self._config.prefix}/{name}"

    def _says(self, what: str) -> str:
        return f"{self.name}: {self._config.host}:{self._port}: {what}; expected an MQTT {self._config.protocol} broker"

    # paho calls these on its own thread.

    def _on_connect(self, client: Any, data: object, flags: object, reason: Any, properties: object) -> None:
        with self._changed:
            if reason.is_failure:
                self._last_error = f"the broker refuses us: {reason}"
                return
            self._connected = True
            self._takes_bytes = getattr(properties, "MaximumPacketSize", MOST_PACKET_BYTES)
            topics = list(self._heard)
            self._changed.notify_all()
        client.publish(self._topic(STATUS), "online", qos=1, retain=True)
        for topic in topics:
            client.subscribe(topic, qos=1)

    def _on_connect_fail(self, client: object, data: object) -> None:
        error = sys.exc_info()[1]  # paho calls this while it handles the error
        with self._changed:
            self._last_error = getattr(error, "strerror", None) or type(error).__name__
            if verified := getattr(error, "verify_message", None):
                self._last_error = f"the broker's certificate: {verified}"

    def _on_disconnect(self, client: object, data: object, flags: object, reason: Any, properties: object) -> None:
        with self._changed:
            if self._connected and not self._closing:
                self._last_error = f"the connection ended: {reason}"
            self._connected = False

    def _on_publish(self, client: object, data: object, mid: int, reason: Any, properties: object) -> None:
        with self._changed:
            self._acknowledged[mid] = reason
            self._changed.notify_all()

    def _on_subscribe(self, client: object, data: object, mid: int, reasons: list[Any], properties: object) -> None:
        for reason in reasons:
            if reason.is_failure:
                with self._changed:
                    self._last_error = f"the broker refuses a subscription: {reason}"


@dataclass(frozen=True, slots=True)
class MqttTriggerHealth:
    """Triggers that came over MQTT, since the start.

    Attributes:
        triggers: all of them.
        unreadable: those among them whose payload could not be read; they triggered with an id of the box's own.
    """

    triggers: int
    unreadable: int


class MqttTrigger:
    """Pulls a trigger for every message on `PREFIX/trigger`.

    The payload is empty, or a JSON object with `part_id` (1 to 128 printable characters, or a whole number). Whatever
    else it is, a part stands there: it triggers all the same, as `mqtt-000001` and so on, and is counted.
    """

    def __init__(self, output: MqttOutput, on_trigger: Callable[[Trigger], None]) -> None:
        """Listen on the output's connection.

        Args:
            on_trigger: called on the network's thread; must return at once.
        """
        self._on_trigger = on_trigger
        self._own_ids = (f"mqtt-{number:06d}" for number in itertools.count(1))
        self._triggers = self._unreadable = 0
        output.listen(TRIGGER, self._pull)

    def health(self) -> MqttTriggerHealth:
        """What came so far."""
        return MqttTriggerHealth(self._triggers, self._unreadable)

    def _pull(self, payload: bytes) -> None:
        at_utc, at_ns = stamp()
        found = _json_object(payload) if payload else {}
        part_id = found.get("part_id") if found is not None else None
        if type(part_id) is int:
            part_id = str(part_id)
        if found is None or (part_id is not None and not _is_part_id(part_id)):
            part_id = None
            self._unreadable += 1
        self._triggers += 1
        self._on_trigger(Trigger(next(self._own_ids) if part_id is None else part_id, at_ns, at_utc))


class MqttCommands:
    """Hands on every JSON object that comes on `PREFIX/command`.

    Attributes:
        malformed: messages that were ignored because they are none, or longer than `MOST_BYTES`.
    """

    def __init__(self, output: MqttOutput, on_command: Callable[[dict[str, Any]], None]) -> None:
        """Listen on the output's connection.

        Args:
            on_command: called on the network's thread; must return at once.
        """
        self._on_command, self.malformed = on_command, 0
        output.listen(COMMAND, self._take)

    def _take(self, payload: bytes) -> None:
        found = _json_object(payload)
        if found is None:
            self.malformed += 1
        else:
            self._on_command(found)


def _json_object(payload: bytes) -> dict[str, Any] | None:
    if len(payload) > MOST_BYTES:
        return None
    try:
        found = json.loads(payload)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _is_part_id(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MOST_PART_ID and value.isprintable()


def open_output(config: MqttConfig) -> MqttOutput:
    """The output a config describes; raises as `MqttOutput`."""
    return MqttOutput(config)
