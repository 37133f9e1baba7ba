"""A PLC over real Modbus TCP: whole cycles, overruns, a client that dies, rubbish at the socket, silence."""

from __future__ import annotations

import math
import random
import re
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from diagline.errors import ConfigError, OutputError
from diagline.verdict import State, Verdict
from edge_runtime.gate.simulator import verdict
from edge_runtime.plc import registers
from edge_runtime.plc.coil import CoilActuator, CoilConfig
from edge_runtime.plc.handshake import Error, Handshake, Result
from edge_runtime.plc.modbus_server import MS, ModbusConfig, ModbusServer
from edge_runtime.trigger import Trigger

pytest.importorskip("pymodbus", reason="pymodbus is not installed")

WAIT_S = 20.0


class Box:
    """A server whose clock stands until the test moves it, and what it told the loop."""

    def __init__(self, **config: Any) -> None:
        self.now_ns = 10**12
        self.triggers: list[Trigger] = []
        self.overruns: list[Trigger] = []
        self.on_trigger: Callable[[Trigger], None] = self.triggers.append
        self.server = ModbusServer(
            ModbusConfig(port=0, **config),
            lambda trigger: self.on_trigger(trigger),
            self.overruns.append,
            lambda: self.now_ns,
        )
        self.plcs: list[Plc] = []
        self.server.beat(self.now_ns)

    def plc(self) -> Plc:
        self.plcs.append(Plc(self.server))
        return self.plcs[-1]

    def close(self) -> None:
        for plc in self.plcs:
            plc.client.close()
        self.server.close()


class Plc:
    """A client that does what the program of a PLC does."""

    def __init__(self, server: ModbusServer) -> None:
        from pymodbus.client import ModbusTcpClient

        self.client: Any = ModbusTcpClient(server.address[0], port=server.address[1], timeout=WAIT_S, retries=0)
        assert self.client.connect()
        self.count = 0

    def watchdog(self) -> None:
        self.count += 1
        assert not self.client.write_register(registers.HOLDING["plc_watchdog"], self.count).isError()

    def set(self, **coils: bool) -> None:
        for name, value in coils.items():
            assert not self.client.write_coil(registers.COILS[name], value).isError()

    def bits(self) -> set[str]:
        bits = self.client.read_discrete_inputs(0, count=len(registers.DISCRETE)).bits
        return {name for name, bit in zip(registers.DISCRETE, bits, strict=True) if bit} - {"heartbeat"}

    def words(self) -> dict[str, int]:
        found = self.client.read_input_registers(0, count=registers.INPUT_WORDS).registers
        return {
            name: int.from_bytes(struct.pack(f">{count}H", *found[place : place + count]), "big")
            for name, (place, count) in registers.INPUT.items()
        }


@pytest.fixture
def box() -> Iterator[Box]:
    box = Box()
    yield box
    box.close()


@pytest.fixture
def plc(box: Box) -> Plc:
    plc = box.plc()
    plc.watchdog()
    return plc


def test_whole_cycles_end_with_the_verdict_of_their_own_part(box, plc):
    ends = {State.PASS: {"result_valid", "pass"}, State.REJECT: {"result_valid", "ng"}}
    for number, state in enumerate([State.PASS, State.REJECT, State.NO_DECISION, State.PASS], 1):
        assert plc.bits() == {"ready"}
        plc.set(trigger=True)
        assert plc.bits() == {"busy"}
        trigger = box.triggers[-1]
        assert len(box.triggers) == number and trigger.at_ns == box.now_ns
        box.server.deliver(verdict("of another trigger", State.REJECT))
        assert plc.bits() == {"busy"}
        box.server.deliver(verdict(trigger.part_id, state))
        assert plc.bits() == ends.get(state, {"result_valid", "ng", "fault"})
        words = plc.words()
        assert (words["acquisition"], words["result"]) == (number, Result[state.name])
        plc.set(trigger=False, ack=True)
        assert plc.bits() == set()
        plc.set(ack=False)
    words = plc.words()
    assert (words["parts"], words["passed"], words["rejected"], words["no_decision"]) == (8, 2, 5, 1)
    assert len({trigger.part_id for trigger in box.triggers}) == 4 and not box.overruns


def test_a_verdict_may_come_from_within_the_call_that_tells_of_its_trigger(box, plc):
    box.on_trigger = lambda trigger: box.server.deliver(verdict(trigger.part_id, State.PASS))
    plc.set(trigger=True)
    assert plc.bits() == {"result_valid", "pass"}


def test_an_overrun_is_ng_counted_and_told_to_the_box(box, plc):
    plc.set(trigger=True)
    plc.set(trigger=False)
    plc.set(trigger=True)
    assert plc.bits() == {"busy", "ng", "fault"} and plc.words()["error"] == Error.OVERRUN
    box.server.deliver(verdict(box.triggers[0].part_id, State.PASS))
    assert plc.bits() == {"result_valid", "ng", "fault"}
    assert plc.words()["overruns"] == 1 and len(box.triggers) == 1
    assert [trigger.part_id for trigger in box.overruns] == ["plc-overrun-000001"]


def test_no_verdict_in_time_is_ng_and_the_late_one_is_shown_but_not_taken(box, plc):
    plc.set(trigger=True)
    box.now_ns += 1001 * MS
    plc.watchdog()
    box.server.beat(box.now_ns)
    assert plc.bits() >= {"result_valid", "ng", "fault"} and plc.words()["missed"] == 1
    box.server.deliver(verdict(box.triggers[0].part_id, State.PASS))
    assert "pass" not in plc.bits() and plc.words()["last_state"] == Result.PASS


def test_a_box_that_cannot_take_the_trigger_ends_the_cycle_as_ng(box, plc):
    def full(trigger: Trigger) -> None:
        raise RuntimeError("full")

    box.on_trigger = full
    plc.set(trigger=True)
    assert plc.bits() == {"busy"} and box.server.health().callback_errors == 1
    box.now_ns += 1001 * MS
    assert "ng" in plc.bits() and "busy" not in plc.bits()


def test_a_client_that_is_killed_in_mid_cycle_leaves_the_cycle_to_the_next(box, plc):
    plc.set(trigger=True)
    plc.client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    plc.client.close()  # a reset: nothing more comes
    box.server.deliver(verdict(box.triggers[0].part_id, State.PASS))
    again = box.plc()
    assert again.bits() == {"result_valid", "pass"} and again.words()["acquisition"] == 1
    again.set(trigger=False, ack=True)
    again.set(ack=False)
    assert again.bits() == {"ready"}
    again.set(trigger=True)
    assert len(box.triggers) == 2


def test_a_plc_that_no_longer_changes_its_watchdog_is_silent_and_gets_no_pass(box, plc):
    plc.set(trigger=True)
    box.server.deliver(verdict(box.triggers[0].part_id, State.PASS))
    box.now_ns += 1001 * MS
    box.server.beat(box.now_ns)
    plc.client.write_register(0, plc.count)  # the same value again: a gateway, not the PLC
    assert plc.bits() == {"result_valid", "ng", "fault", "plc_silent"}
    assert plc.words()["error"] == Error.PLC_SILENT and box.server.health().plc_silent
    plc.watchdog()
    plc.set(trigger=False, ack=True)
    plc.set(ack=False)
    assert plc.bits() == {"ready"}


def test_a_loop_that_no_longer_beats_gets_no_pass_and_its_heartbeat_stands(box, plc):
    first = plc.words()["heartbeat"]
    box.server.beat(box.now_ns)
    assert plc.words()["heartbeat"] == first + 1
    box.now_ns += 501 * MS
    assert plc.bits() == {"ng", "fault"} and plc.words()["error"] == Error.LOOP_SILENT
    assert plc.words()["heartbeat"] == first + 1


def test_a_fault_of_the_box_is_shown_for_as_long_as_it_lasts(box, plc):
    box.server.fault(True)
    assert plc.bits() == {"ng", "fault"} and plc.words()["error"] == Error.BOX
    box.server.fault(False)
    assert plc.bits() == {"ready"}


def test_the_last_verdict_is_told_with_its_logit_threshold_and_model(box, plc):
    assert math.isnan(struct.unpack(">f", plc.words()["last_logit"].to_bytes(4, "big"))[0])
    box.server.deliver(Verdict("p", State.PASS, -12.5, 3.0, "line@0123456789ab", ""))
    words = plc.words()
    assert struct.unpack(">ff", (words["last_logit"] << 32 | words["threshold"]).to_bytes(8, "big")) == (-12.5, 3.0)
    assert words["model"] == 0x0123456789AB and words["version"] == registers.VERSION
    box.server.deliver(Verdict("p", State.REJECT, 1e300, 3.0, "no hash", ""))
    assert plc.words()["model"] == 0 and plc.words()["last_state"] == Result.REJECT


def test_what_lies_outside_the_map_is_refused_whole_and_changes_nothing(box, plc):
    client = plc.client
    refused = [
        client.write_coil(2, True),
        client.write_coils(0, [True, True, True]),
        client.write_register(1, 1),
        client.write_registers(0, [9, 9]),
        client.read_input_registers(registers.INPUT_WORDS, count=1),
        client.read_input_registers(0, count=registers.INPUT_WORDS + 1),
        client.read_discrete_inputs(16, count=1),
        client.read_holding_registers(7, count=1),
    ]
    assert [answer.exception_code for answer in refused] == [2] * len(refused)
    assert plc.bits() == {"ready"} and not box.triggers


def test_rubbish_at_the_socket_harms_nobody_else(box, plc):
    rng, answers = random.Random(1), 0
    for number in range(400):
        with socket.create_connection(box.server.address, WAIT_S) as rude:
            body = rng.randbytes(rng.randint(0, 300))
            if number % 2:  # a proper header, and anything behind it
                body = struct.pack(">HHHB", number, 0, len(body) % 250 + 1, 1) + body
                if len(body) > 7 and 5 <= body[7] <= 23:
                    body = body[:7] + b"\x02" + body[8:]  # does not write by chance
            rude.sendall(body)
            rude.shutdown(socket.SHUT_WR)
            while rude.recv(4096):
                answers += 1
        if number % 50 == 0:
            plc.watchdog()
    plc.set(trigger=True)
    box.server.deliver(verdict(box.triggers[-1].part_id, State.PASS))
    assert "pass" in plc.bits() and len(box.triggers) == 1
    assert box.server.health().stopped is None and answers > 10


def test_there_is_room_for_so_many_clients_and_the_silent_one_gives_way():
    box = Box(connections=2)
    try:
        first, second = box.plc(), box.plc()
        first.watchdog(), second.watchdog()
        with socket.create_connection(box.server.address, WAIT_S) as third:
            assert third.recv(1) == b""
        assert box.server.health().turned_away == 1
        box.now_ns += 1001 * MS
        first.watchdog()
        with socket.create_connection(box.server.address, WAIT_S):
            second.client.socket.settimeout(WAIT_S)
            assert second.client.socket.recv(1) == b""
            first.watchdog()
    finally:
        box.close()


@pytest.mark.parametrize(("unread", "aborted"), [(65_536, 0), (65_537, 1)])
def test_a_client_that_asks_and_never_reads_is_thrown_out(box, unread, aborted):
    class Transport:
        aborted = 0

        def get_write_buffer_size(self) -> int:
            return unread

        def abort(self) -> None:
            self.aborted += 1

    client = SimpleNamespace(transport=Transport(), close=lambda: None)
    box.server._admit(client).trace_packet(True, b"answer")
    assert client.transport.aborted == aborted


def test_a_port_that_is_taken_is_one_line_that_says_what_to_do(box):
    with pytest.raises(OutputError, match=rf"127\.0\.0\.1:{box.server.address[1]}; expected a free port"):
        ModbusServer(ModbusConfig(port=box.server.address[1]), box.triggers.append)


def test_closed_it_answers_nobody_and_its_thread_is_gone():
    box = Box()
    address = box.server.address
    assert address[0] == "127.0.0.1"
    box.close()
    assert box.server.health().stopped == "closed"
    assert not any(thread.name == "modbus" for thread in threading.enumerate())
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, WAIT_S)
    box.close()


@pytest.mark.parametrize("wrong", [{"host": ""}, {"port": 70_000}, {"connections": 0}, {"timeout_ms": 0.0}])
def test_a_config_that_cannot_work_is_refused(wrong):
    with pytest.raises(ConfigError, match=rf"modbus\.{next(iter(wrong))} = "):
        ModbusConfig(**wrong)


def test_the_map_has_no_holes_and_no_overlaps():
    end = 0
    for place, words in registers.INPUT.values():
        assert place == end
        end += words
    silent = Handshake(1).step(False, False, 0)
    assert len(registers.status_bits(silent, False, 0)) == len(registers.DISCRETE)


def test_the_documented_map_is_the_one_that_is_served():
    text = (Path(__file__).parents[2] / "docs" / "gate.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (coil|discrete|input|holding) (\d+)(?:-(\d+))? \| `(\w+)`", text, re.MULTILINE)
    found = {(table, name): (int(first), int(last or first) - int(first) + 1) for table, first, last, name in rows}
    served = {("coil", name): (place, 1) for name, place in registers.COILS.items()}
    served |= {("holding", name): (place, 1) for name, place in registers.HOLDING.items()}
    served |= {("discrete", name): (place, 1) for place, name in enumerate(registers.DISCRETE)}
    served |= {("input", name): place for name, place in registers.INPUT.items()}
    assert found == served
    assert dict(re.findall(r"^\| (\d) \| (\w+) \|", text, re.MULTILINE)) == {str(int(e)): e.name for e in Error}


# A coil as the gate, against the server above, whose coils are coils like any other.


@pytest.fixture
def coil(box: Box) -> Iterator[CoilActuator]:
    actuator = CoilActuator(CoilConfig(*box.server.address, timeout_ms=10_000, refresh_ms=20), clock=lambda: box.now_ns)
    yield actuator
    actuator.close()


def is_open(plc: Plc) -> bool:
    return bool(plc.client.read_coils(0, count=1).bits[0])


def test_a_coil_opens_closes_and_is_written_again_before_its_coupler_gives_up(box, plc, coil):
    coil.accept()
    assert is_open(plc)
    plc.set(trigger=False)  # as if the coupler had lost it
    coil.accept()
    assert not is_open(plc)
    box.now_ns += 20 * MS
    coil.accept()
    assert is_open(plc)
    coil.reject()
    assert not is_open(plc)
    coil.accept()
    coil.close()
    assert not is_open(plc)


def test_a_coupler_that_is_gone_is_an_error_of_one_line_and_is_taken_up_again(box, plc, coil):
    coil.accept()
    coil._client.socket.shutdown(socket.SHUT_RDWR)
    with pytest.raises(OutputError, match=r"^127\.0\.0\.1:\d+ coil 0: not written \([^\n]+; check it$"):
        coil.reject()
    coil.reject()
    assert not is_open(plc)
    box.server.close()
    with pytest.raises(OutputError):
        coil.accept()
    coil.close()


def test_a_coil_that_the_coupler_does_not_have_is_an_error(box):
    actuator = CoilActuator(CoilConfig(*box.server.address, address=9, timeout_ms=10_000))
    with pytest.raises(OutputError, match=r"coil 9: not written \(it answered"):
        actuator.accept()
    actuator.close()


def test_a_coupler_that_falls_silent_is_connected_to_anew():
    with socket.create_server(("127.0.0.1", 0)) as coupler:
        coupler.settimeout(WAIT_S)
        actuator = CoilActuator(CoilConfig(*coupler.getsockname(), timeout_ms=5))
        for _ in range(2):
            with pytest.raises(OutputError, match="not written"):
                actuator.accept()
            coupler.accept()[0].close()
        actuator.close()
