"""Against a real broker: records arrive, one that dies loses none, nobody learns the password, every part triggers."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from diagline.errors import ConfigError, OutputError
from edge_runtime.outputs import mqtt_output
from edge_runtime.outputs.mqtt_output import MqttCommands, MqttConfig, MqttOutput, MqttTrigger, open_output
from edge_runtime.outputs.spool import RefusedError, Spool
from edge_runtime.trigger import Trigger

mqtt = pytest.importorskip("paho.mqtt.client")
MOSQUITTO = shutil.which("mosquitto", path=f"{os.environ['PATH']}:/usr/sbin")
if MOSQUITTO is None:
    pytest.skip("mosquitto is not installed: apt-get install mosquitto", allow_module_level=True)

WAIT_S = 30.0
RECORD = {"part_id": "naïve", "state": "REJECT", "logit": 3.0, "stamps_ns": {"taken": 1}}


@pytest.fixture(autouse=True)
def fast_reconnect(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mqtt_output, "RECONNECT_S", (0.05, 0.1))


class Broker:
    """mosquitto on a free port; `kill` and `start` it again on the same one."""

    def __init__(self, folder: Path, *lines: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._config = folder / "mosquitto.conf"
        head = [f"listener {self.port} 127.0.0.1", "persistence false", "log_dest stderr", "user root"]
        self._config.write_text("\n".join([*head, *(lines or ["allow_anonymous true"])]) + "\n")
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(
            [str(MOSQUITTO), "-c", str(self._config)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert self._process.stdout is not None
        said = []
        for line in self._process.stdout:
            said.append(line)
            if line.rstrip().endswith("running"):
                self._log = threading.Thread(target=self._process.stdout.read, daemon=True)
                self._log.start()
                return
        raise AssertionError("".join(said))

    def kill(self, how: signal.Signals = signal.SIGKILL) -> None:
        self._process.send_signal(how)
        self._process.wait(WAIT_S)


class Observer:
    """Hears everything; keeps (topic, payload, retained)."""

    def __init__(self, port: int, set_up: Callable[[Any], None] = lambda client: None) -> None:
        self.changed = threading.Condition()
        self.messages: list[tuple[str, bytes, bool]] = []
        self.subscribed = threading.Event()
        self.client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
        set_up(self.client)
        self.client.reconnect_delay_set(0.05, 0.1)
        self.client.on_connect = lambda client, *_: client.subscribe("#", qos=0)
        self.client.on_subscribe = lambda *_: self.subscribed.set()
        self.client.on_message = self._on_message
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()
        assert self.subscribed.wait(WAIT_S)

    def _on_message(self, client: object, data: object, message: Any) -> None:
        with self.changed:
            self.messages.append((message.topic, message.payload, message.retain))
            self.changed.notify_all()

    def payloads(self, topic: str) -> list[bytes]:
        return [payload for heard, payload, _ in self.messages if heard == topic]

    def wait(self, what: Callable[[], bool]) -> None:
        with self.changed:
            assert self.changed.wait_for(what, WAIT_S), self.messages

    def say(self, topic: str, payload: bytes | str, retain: bool = False) -> None:
        self.client.publish(topic, payload, qos=1, retain=retain).wait_for_publish(WAIT_S)

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    broker = Broker(tmp_path)
    yield broker
    broker.kill()


@contextmanager
def connected(port: int, **config: Any) -> Iterator[MqttOutput]:
    output = open_output(MqttConfig("127.0.0.1", port, **{"timeout_s": WAIT_S, **config}))
    try:
        yield output
    finally:
        output.close()


@contextmanager
def observing(port: int, set_up: Callable[[Any], None] = lambda client: None) -> Iterator[Observer]:
    observer = Observer(port, set_up)
    try:
        yield observer
    finally:
        observer.close()


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_a_verdict_arrives_and_counts_are_there_for_whoever_comes_later(broker: Broker, protocol: str) -> None:
    with connected(broker.port, protocol=protocol, prefix="plant/line3") as output:
        with observing(broker.port) as observer:
            output.send(RECORD)
            output.send({"kind": "counts", "PASS": 1})
            output.send({"kind": "counts", "PASS": 2})
            observer.wait(lambda: len(observer.payloads("plant/line3/counts")) == 2)
            assert [json.loads(payload) for payload in observer.payloads("plant/line3/verdicts")] == [RECORD]
        with observing(broker.port) as late:
            late.wait(lambda: len(late.messages) == 2)
            assert ("plant/line3/status", b"online", True) in late.messages
            assert ("plant/line3/counts", b'{"kind":"counts","PASS":2}', True) in late.messages


@pytest.mark.parametrize("kind", [None, 7, "status", "trigger", "command", "a/b", "+", "", "#"])
def test_a_record_that_has_no_topic_is_refused(broker: Broker, kind: object) -> None:
    with connected(broker.port) as output, pytest.raises(RefusedError, match="expected a verdict"):
        output.send({"kind": kind})


def test_no_broker_is_said_and_what_was_not_sent_does_not_pile_up() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # bound, not listening
        with connected(held.getsockname()[1], timeout_s=0.02) as output:
            for _ in range(3):
                with pytest.raises(OutputError, match=r"mqtt: 127\.0\.0\.1:\d+: no connection"):
                    output.send(RECORD)
            assert not output._client._out_messages
            assert not output.health().connected


def test_an_answer_that_stays_out_is_no_arrival_and_the_same_record_is_not_queued_again(broker: Broker) -> None:
    with connected(broker.port) as output, observing(broker.port) as observer:
        output.send(RECORD)
        object.__setattr__(output._config, "timeout_s", 0.05)
        broker._process.send_signal(signal.SIGSTOP)
        later = {**RECORD, "part_id": "later"}
        for _ in range(3):
            with pytest.raises(OutputError, match="no acknowledgement within"):
                output.send(later)
        broker._process.send_signal(signal.SIGCONT)
        object.__setattr__(output._config, "timeout_s", WAIT_S)
        output.send(later)
        output.send({**RECORD, "part_id": "last"})
        observer.wait(lambda: len(observer.payloads("diagline/verdicts")) >= 3)
        parts = [json.loads(payload)["part_id"] for payload in observer.payloads("diagline/verdicts")]
    assert parts == ["naïve", "later", "last"]


def test_a_broker_that_is_killed_and_comes_back_loses_nothing_behind_a_spool(broker: Broker, tmp_path: Path) -> None:
    output = open_output(MqttConfig("127.0.0.1", broker.port, timeout_s=0.5))
    may_connect = threading.Event()
    may_connect.set()
    output._client.on_pre_connect = lambda *_: may_connect.wait(WAIT_S)
    spool = Spool(output, tmp_path / "spool", 10**6, retry_s=0.01, retry_longest_s=0.05)

    def parts() -> list[int]:
        return [json.loads(payload)["n"] for payload in observer.payloads("diagline/verdicts")]

    with observing(broker.port) as observer:
        for number in range(200):
            spool.put({"part_id": str(number), "n": number})
        observer.wait(lambda: len(parts()) >= 20)
        may_connect.clear()
        broker.kill()
        for number in range(200, 220):
            spool.put({"part_id": str(number), "n": number})
        observer.subscribed.clear()
        broker.start()
        assert observer.subscribed.wait(WAIT_S)  # before the records come
        may_connect.set()
        observer.wait(lambda: 219 in parts())
        assert set(parts()) == set(range(220))
        assert all(after in (before, before + 1) for before, after in pairwise(parts()))
        spool.close(WAIT_S)
        health = spool.health()
    assert (health.sent, health.waiting, health.dropped) == (220, 0, {})


def test_the_last_will_says_offline_and_the_box_says_so_when_it_leaves(broker: Broker) -> None:
    with observing(broker.port) as observer:
        statuses = lambda: observer.payloads("diagline/status")  # noqa: E731
        with connected(broker.port) as output:
            observer.wait(lambda: statuses() == [b"online"])
            output._client.socket().shutdown(socket.SHUT_RDWR)  # no farewell
            observer.wait(lambda: statuses() == [b"online", b"offline", b"online"])
        observer.wait(lambda: statuses() == [b"online", b"offline", b"online", b"offline"])
    with observing(broker.port) as late:
        late.wait(lambda: late.messages == [("diagline/status", b"offline", True)])


def test_closing_returns_when_the_broker_hangs(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mqtt_output, "CLOSE_WAIT_S", 0.01)
    with connected(broker.port) as output:
        output.send(RECORD)
        broker._process.send_signal(signal.SIGSTOP)
        output.close()
        with pytest.raises(OutputError):
            output.send(RECORD)


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Broker]:
    """A broker that wants user and password, and lets nobody write below `closed/`."""
    tool = shutil.which("mosquitto_passwd")
    if tool is None:
        pytest.skip("mosquitto_passwd is not installed: apt-get install mosquitto")
    subprocess.run([tool, "-b", "-c", str(tmp_path / "users"), "box", "right-pw"], check=True, capture_output=True)
    (tmp_path / "rights").write_text("user box\ntopic readwrite diagline/#\n")
    broker = Broker(
        tmp_path,
        "allow_anonymous false",
        f"password_file {tmp_path / 'users'}",
        f"acl_file {tmp_path / 'rights'}",
        "max_packet_size 2000",
    )
    yield broker
    broker.kill()


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_a_wrong_password_is_said_and_not_told(
    guarded: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, protocol: str
) -> None:
    (tmp_path / "password").write_text("wrong-pw\n")
    refused = threading.Event()
    on_connect = MqttOutput._on_connect
    monkeypatch.setattr(MqttOutput, "_on_connect", lambda *args: (on_connect(*args), refused.set())[0])
    config = MqttConfig(
        "127.0.0.1",
        guarded.port,
        protocol=protocol,
        username="box",
        password_file=tmp_path / "password",
        timeout_s=0.05,
    )
    output = open_output(config)
    try:
        assert refused.wait(WAIT_S)
        with pytest.raises(OutputError, match=r"the broker refuses us: (Not authorized|Bad user name)") as failed:
            output.send(RECORD)
    finally:
        output.close()
    for text in (repr(config), str(failed.value), repr(output.health()), caplog.text):
        assert "wrong-pw" not in text


def test_the_right_password_from_a_file_or_a_variable_opens(
    guarded: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "password").write_text("right-pw\n")
    monkeypatch.setenv("BOX_PASSWORD", "right-pw")
    for place in ({"password_file": tmp_path / "password"}, {"password_variable": "BOX_PASSWORD"}):
        with connected(guarded.port, username="box", **place) as output:
            output.send(RECORD)


def test_what_the_broker_lets_nobody_write_is_kept_and_what_is_too_large_is_refused(
    guarded: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BOX_PASSWORD", "right-pw")
    access = {"username": "box", "password_variable": "BOX_PASSWORD"}
    with connected(guarded.port, prefix="closed", **access) as output:
        with pytest.raises(OutputError, match="closed/verdicts is refused: Not authorized") as failed:
            output.send(RECORD)
        assert not isinstance(failed.value, RefusedError)
    with connected(guarded.port, **access) as output:
        with pytest.raises(RefusedError, match="takes packets of 2000 bytes"):
            output.send({**RECORD, "cause": "x" * 3000})
        output.send(RECORD)


Pem = Callable[..., Path]


@pytest.fixture
def pem(tmp_path: Path) -> Pem:
    """`pem("ca")` makes an authority; `pem("box", by="ca")` a certificate it signed: NAME.pem and NAME.key."""
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    keys: dict[str, Any] = {}

    def make(name: str, by: str | None = None) -> Path:
        key = keys[name] = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        issuer = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, by or name)])
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=by is None, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(keys[by or name].public_key()), critical=False
            )
        )
        if by is None:
            usage = dict.fromkeys(
                ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
                 "encipher_only", "decipher_only"), False,
            )  # fmt: skip
            builder = builder.add_extension(x509.KeyUsage(key_cert_sign=True, crl_sign=True, **usage), critical=True)
        path = tmp_path / f"{name}.pem"
        path.write_bytes(builder.sign(keys[by or name], hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        path.with_suffix(".key").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return path

    return make


def test_tls_connects_with_the_right_certificates_and_with_no_others(
    tmp_path: Path, pem: Pem, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = threading.Event()
    on_connect_fail = MqttOutput._on_connect_fail
    monkeypatch.setattr(MqttOutput, "_on_connect_fail", lambda *args: (on_connect_fail(*args), failed.set())[0])
    ca, server, box, other = pem("ca"), pem("server", by="ca"), pem("box", by="ca"), pem("other")
    broker = Broker(
        tmp_path,
        "allow_anonymous true",
        f"cafile {ca}",
        f"certfile {server}",
        f"keyfile {server.with_suffix('.key')}",
        "require_certificate true",
    )
    try:
        own = {"cert": box, "key": box.with_suffix(".key")}
        with (
            connected(broker.port, tls=True, ca=ca, **own) as output,
            observing(
                broker.port, lambda client: client.tls_set(str(ca), str(box), str(box.with_suffix(".key")))
            ) as observer,
        ):
            output.send(RECORD)
            observer.wait(lambda: len(observer.payloads("diagline/verdicts")) == 1)
        with connected(broker.port, tls=True, ca=ca, timeout_s=0.5) as output, pytest.raises(OutputError):
            output.send(RECORD)  # shows no certificate
        failed.clear()
        with connected(broker.port, tls=True, ca=other, timeout_s=0.05, **own) as output:
            assert failed.wait(WAIT_S)
            with pytest.raises(
                OutputError, match="the broker's certificate: self-signed certificate in certificate chain"
            ):
                output.send(RECORD)
    finally:
        broker.kill()


def test_certificates_that_cannot_be_used_are_named(tmp_path: Path, pem: Pem) -> None:
    box, text = pem("box"), tmp_path / "text.pem"
    text.write_text("none")
    with pytest.raises(ConfigError, match=r"mqtt\.ca = .*missing\.pem"):
        open_output(MqttConfig("127.0.0.1", tls=True, ca=tmp_path / "missing.pem"))
    with pytest.raises(ConfigError, match=r"mqtt\.ca = .*text\.pem"):
        open_output(MqttConfig("127.0.0.1", tls=True, ca=text))
    with pytest.raises(ConfigError, match=r"mqtt\.cert = .*box\.pem.*text\.pem"):
        open_output(MqttConfig("127.0.0.1", tls=True, cert=box, key=text))


UNREADABLE = [
    b"\xff\xfe", b"{", b"[]", b"7", b'"a"', b"null", b"[" * 4000, b'{"part_id": ""}', b'{"part_id": true}',
    b'{"part_id": ["a"]}', b'{"part_id": "a\\nb"}', b'{"part_id": "\\u0000"}', b'{"part_id": "%s"}' % (b"x" * 129),
    b'{"part_id": "a", "pad": "%s"}' % (b"x" * 5000), b" " * 100_000, b'{"part_id": 1e5}',
]  # fmt: skip


def test_every_message_triggers_once_with_its_part_id_or_the_boxes_own(broker: Broker) -> None:
    pulled: list[Trigger] = []
    changed = threading.Condition()

    def on_trigger(trigger: Trigger) -> None:
        with changed:
            pulled.append(trigger)
            changed.notify_all()
        if trigger.part_id == "throw":
            raise RuntimeError("no")

    with connected(broker.port) as output, observing(broker.port) as observer:
        output.send(RECORD)
        trigger = MqttTrigger(output, on_trigger)  # after it was connected
        good = [b"", b"{}", b'{"part_id": "A-1"}', b'{"part_id": 77}', b'{"part_id": "throw"}', b'{"part_id": null}']
        subscribed = threading.Event()
        output._client.on_subscribe = lambda *_: subscribed.set()
        output._client.subscribe("diagline/trigger", qos=1)
        assert subscribed.wait(WAIT_S)
        for payload in [*good, *UNREADABLE]:
            observer.say("diagline/trigger", payload)
        with changed:
            assert changed.wait_for(lambda: len(pulled) == len(good) + len(UNREADABLE), WAIT_S)
        output.send(RECORD)  # the connection has outlived them all
        assert (trigger.health().triggers, trigger.health().unreadable) == (len(pulled), len(UNREADABLE))
        assert output.health().failed == 1
    assert [pull.part_id for pull in pulled[:6]] == ["mqtt-000001", "mqtt-000002", "A-1", "77", "throw", "mqtt-000003"]
    assert [pull.part_id for pull in pulled[6:]] == [f"mqtt-{n:06d}" for n in range(4, 4 + len(UNREADABLE))]
    assert all(before.at_ns <= after.at_ns for before, after in pairwise(pulled))


def test_a_trigger_is_heard_after_a_reconnect_and_a_retained_one_is_not_a_part(broker: Broker) -> None:
    pulled: list[str] = []
    changed = threading.Condition()

    def on_trigger(trigger: Trigger) -> None:
        with changed:
            pulled.append(trigger.part_id)
            changed.notify_all()

    with connected(broker.port) as output:
        MqttTrigger(output, on_trigger)
        output.send(RECORD)
        subscribed = threading.Event()
        output._client.on_subscribe = lambda *_: subscribed.set()
        broker.kill()
        broker.start()
        assert subscribed.wait(WAIT_S)
        with observing(broker.port) as observer:
            observer.say("diagline/trigger", b'{"part_id": "fresh"}')
            with changed:
                assert changed.wait_for(lambda: pulled == ["fresh"], WAIT_S)
            observer.say("diagline/trigger", b'{"part_id": "kept"}', retain=True)  # fresh to who hears it now
            with changed:
                assert changed.wait_for(lambda: pulled == ["fresh", "kept"], WAIT_S)
    later: list[str] = []
    came = threading.Event()
    with connected(broker.port) as output, observing(broker.port) as observer:
        output.send(RECORD)
        subscribed = threading.Event()
        output._client.on_subscribe = lambda *_: subscribed.set()
        MqttTrigger(output, lambda trigger: (later.append(trigger.part_id), came.set())[0])
        assert subscribed.wait(WAIT_S)
        observer.say("diagline/trigger", b'{"part_id": "next"}')
        assert came.wait(WAIT_S)
        assert later == ["next"] and output.health().ignored == 1


def test_a_malformed_command_is_counted_and_ignored(broker: Broker) -> None:
    taken: list[dict[str, Any]] = []
    came = threading.Event()
    with connected(broker.port) as output, observing(broker.port) as observer:
        output.send(RECORD)
        subscribed = threading.Event()
        output._client.on_subscribe = lambda *_: subscribed.set()
        commands = MqttCommands(output, lambda command: (taken.append(command), came.set())[0])
        assert subscribed.wait(WAIT_S)
        bad = [b"", b"\xff", b"{", b"[1]", b"[" * 4000, b'{"a": "%s"}' % (b"x" * 5000)]
        for payload in bad:
            observer.say("diagline/command", payload)
        observer.say("diagline/command", b'{"command": "report"}')
        assert came.wait(WAIT_S)
        assert (taken, commands.malformed) == ([{"command": "report"}], len(bad))


@pytest.mark.parametrize(
    "wrong",
    [
        {"host": ""}, {"port": 70000}, {"name": "a/b"}, {"prefix": ""}, {"prefix": "a/#"}, {"prefix": "+"},
        {"prefix": "/a"}, {"prefix": "a/"}, {"prefix": "$SYS"}, {"prefix": "a b"}, {"protocol": "4"},
        {"timeout_s": 0.0}, {"keepalive_s": 0},
    ],
)  # fmt: skip
def test_a_config_out_of_range_is_refused_by_its_key(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"mqtt\.{next(iter(wrong))} = "):
        MqttConfig(**{"host": "broker", **wrong})


def test_settings_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    for wrong in (
        {"ca": tmp_path},
        {"tls": True, "key": tmp_path},
        {"password_variable": "A"},
        {"username": "u", "password_variable": "A", "password_file": tmp_path},
    ):
        with pytest.raises(ConfigError, match="expected"):
            MqttConfig("broker", **wrong)  # type: ignore[arg-type]
