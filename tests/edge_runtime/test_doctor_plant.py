"""The doctor asks a real broker and a real Modbus server, and tells apart those that refuse, are deaf or are gone."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edge_runtime.doctor.line import Address, modbus_plc, mqtt_broker
from edge_runtime.doctor.probes import Finding

pytest.importorskip("paho.mqtt.client")
pytest.importorskip("pymodbus.server")
MOSQUITTO = shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
Ask = Callable[[Address, float], Iterator[Finding]]
BOTH = pytest.mark.parametrize("ask", [mqtt_broker, modbus_plc])


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextlib.contextmanager
def mosquitto(folder: Path, anonymous: bool) -> Iterator[Address]:
    if MOSQUITTO is None:
        pytest.skip("mosquitto is not installed")
    port, config = free_port(), folder / "mosquitto.conf"
    config.write_text(f"listener {port} 127.0.0.1\nallow_anonymous {str(anonymous).lower()}\n")
    with subprocess.Popen([MOSQUITTO, "-c", config], stderr=subprocess.PIPE, text=True) as broker:
        assert broker.stderr is not None
        assert any("running" in line for line in broker.stderr)
        yield "127.0.0.1", port
        broker.terminate()


@contextlib.contextmanager
def modbus(address: int) -> Iterator[Address]:
    """A server with ten holding registers from `address` on, each holding 42."""
    from pymodbus.server import ModbusTcpServer
    from pymodbus.simulator import DataType, SimData, SimDevice

    started, ports = threading.Event(), []
    loop = asyncio.new_event_loop()

    async def serve() -> None:
        device = SimDevice(1, [SimData(address, count=10, values=42, datatype=DataType.REGISTERS)])
        server = ModbusTcpServer(device, address=("127.0.0.1", 0))
        await server.serve_forever(background=True)
        ports.append(server.transport.sockets[0].getsockname()[1])
        started.set()
        await stop.wait()
        await server.shutdown()

    stop = asyncio.Event()
    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),), daemon=True)
    thread.start()
    assert started.wait(30)
    yield "127.0.0.1", ports[0]
    loop.call_soon_threadsafe(stop.set)
    thread.join(10)
    loop.close()


def asked(ask: Ask, at: Address, timeout_s: float = 20.0) -> Finding:
    (finding,) = ask(at, timeout_s)
    assert f"{at[0]}:{at[1]}" in finding.found
    return finding


def test_a_broker_that_takes_a_connection_is_well(tmp_path: Path) -> None:
    with mosquitto(tmp_path, anonymous=True) as at:
        assert asked(mqtt_broker, at).grade == "well"


def test_a_broker_that_wants_a_user_is_doubtful(tmp_path: Path) -> None:
    with mosquitto(tmp_path, anonymous=False) as at:
        found = asked(mqtt_broker, at)
    assert found.grade == "doubtful" and "without credentials" in found.found


def test_a_plc_that_answers_a_read_is_well_whether_it_has_the_register_or_not() -> None:
    with modbus(address=0) as at:
        found = asked(modbus_plc, at)
        assert found.grade == "well" and "register 0 is 42" in found.found
    with modbus(address=100) as at:
        found = asked(modbus_plc, at)
        assert found.grade == "well" and "exception 2" in found.found


@pytest.mark.parametrize(("code", "grade"), [(2, "well"), (10, "wrong"), (11, "wrong")])
def test_a_gateway_that_does_not_reach_its_device_is_wrong(code: int, grade: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            peer, _ = server.accept()
            with peer:
                transaction = peer.recv(12)[:2]
                peer.sendall(transaction + bytes([0, 0, 0, 3, 1, 0x83, code]))
                peer.recv(1)

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        assert asked(modbus_plc, server.getsockname()).grade == grade
        thread.join(10)


@BOTH
def test_where_nobody_listens_is_wrong(ask: Ask) -> None:
    assert asked(ask, ("127.0.0.1", free_port())).grade == "wrong"


@BOTH
def test_who_takes_the_connection_and_says_nothing_is_wrong(ask: Ask) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        found = asked(ask, deaf.getsockname(), timeout_s=0.3)
    assert found.grade == "wrong" and "does not answer" in found.found


@BOTH
def test_who_closes_the_connection_is_wrong(ask: Ask) -> None:
    with socket.create_server(("127.0.0.1", 0)) as rude:

        def hang_up() -> None:
            with contextlib.suppress(OSError):
                while True:
                    peer = rude.accept()[0]
                    peer.recv(1)
                    peer.close()  # with bytes unread: the other side sees a reset

        threading.Thread(target=hang_up, daemon=True).start()
        assert asked(ask, rude.getsockname(), timeout_s=0.5).grade == "wrong"
        rude.shutdown(socket.SHUT_RDWR)
