"""The handshake: a Pass is read only with its result, never beside a fault, and no trigger is lost uncounted."""

from __future__ import annotations

import random

import pytest

from diagline.verdict import State
from edge_runtime.plc.handshake import Error, Handshake, Result, Signals

TIMEOUT_NS = 1000


class Plc:
    """The two bits a PLC holds, and a clock."""

    def __init__(self) -> None:
        self.handshake = Handshake(TIMEOUT_NS)
        self.trigger = self.ack = False
        self.now_ns = 0
        self.standing = Error.NONE
        self.step()

    def step(self, trigger: bool | None = None, ack: bool | None = None, wait_ns: int = 1) -> Signals:
        self.trigger = self.trigger if trigger is None else trigger
        self.ack = self.ack if ack is None else ack
        self.now_ns += wait_ns
        return self.handshake.step(self.trigger, self.ack, self.now_ns, self.standing)

    def tell(self, state: State) -> bool:
        return self.handshake.result(self.handshake.signals().acquisition, state)


def lit(signals: Signals) -> str:
    names = ("ready", "busy", "result_valid", "passed", "ng", "fault")
    return " ".join(name for name in names if getattr(signals, name))


@pytest.mark.parametrize(
    ("state", "bits", "result"),
    [
        (State.PASS, "result_valid passed", Result.PASS),
        (State.REJECT, "result_valid ng", Result.REJECT),
        (State.NO_DECISION, "result_valid ng fault", Result.NO_DECISION),
    ],
)
def test_a_whole_cycle(state, bits, result):
    plc = Plc()
    assert lit(plc.step()) == "ready"
    taken = plc.step(trigger=True)
    assert lit(taken) == "busy" and taken.acquisition == 1
    assert plc.tell(state)
    told = plc.step()
    assert lit(told) == bits and told.result is result and told.acquisition == 1
    assert lit(plc.step()) == bits  # stands until it is acknowledged
    assert lit(plc.step(ack=True)) == ""
    assert lit(plc.step(trigger=False)) == ""
    over = plc.step(ack=False)
    assert lit(over) == "ready" and over.result is Result.NONE and over.error is Error.NONE
    assert plc.step(trigger=True).acquisition == 2


def test_a_trigger_that_is_high_at_the_start_is_not_an_edge():
    handshake = Handshake(TIMEOUT_NS)
    signals = handshake.step(True, False, 1)
    assert lit(signals) == "" and signals.acquisition == 0 and signals.overruns == 0
    assert lit(handshake.step(False, False, 2)) == "ready"


@pytest.mark.parametrize("when", ["busy", "result", "released"])
def test_a_trigger_before_the_cycle_is_over_is_an_overrun_and_never_a_pass(when):
    plc = Plc()
    plc.step(trigger=True)
    plc.step(trigger=False)
    if when != "busy":
        plc.tell(State.PASS)
        assert plc.step().passed
    if when == "released":
        plc.step(ack=True)
    signals = plc.step(trigger=True)
    assert signals.overruns == 1 and signals.acquisition == 1 and signals.error is Error.OVERRUN
    assert signals.fault and signals.ng and not signals.passed
    if when == "busy":
        assert plc.tell(State.PASS)
        signals = plc.step()
        assert lit(signals) == "result_valid ng fault" and signals.result is Result.NO_DECISION


def test_an_overrun_in_the_very_step_of_the_ack_is_seen_and_cleared_by_the_next_ack():
    plc = Plc()
    plc.step(trigger=True)
    plc.tell(State.PASS)
    plc.step(trigger=False)
    assert lit(plc.step(trigger=True, ack=True)) == "ng fault"
    plc.step(trigger=False, ack=False)
    assert lit(plc.step()) == "ng fault"
    plc.step(ack=True)
    assert lit(plc.step(ack=False)) == "ready"


def test_no_verdict_in_time_is_ng_with_fault_counted_and_a_late_pass_is_not_taken():
    plc = Plc()
    plc.step(trigger=True)
    assert lit(plc.step(wait_ns=TIMEOUT_NS)) == "busy"
    signals = plc.step()
    assert lit(signals) == "result_valid ng fault" and signals.error is Error.TIMEOUT and signals.missed == 1
    assert not plc.tell(State.PASS) and not plc.step().passed


def test_the_verdict_of_another_acquisition_is_not_taken():
    plc = Plc()
    plc.step(trigger=True)
    assert not plc.handshake.result(0, State.PASS) and not plc.handshake.result(2, State.PASS)
    assert lit(plc.step()) == "busy"


def test_a_trigger_under_a_standing_fault_is_taken_counted_as_missed_and_ng():
    plc = Plc()
    plc.standing = Error.PLC_SILENT
    assert lit(plc.step()) == "ng fault"
    signals = plc.step(trigger=True)
    assert signals.busy and signals.fault and signals.missed == 1 and signals.acquisition == 1
    plc.standing = Error.NONE
    plc.tell(State.PASS)
    signals = plc.step()
    assert lit(signals) == "result_valid ng fault" and signals.error is Error.NOT_READY


@pytest.mark.parametrize("phase", ["busy", "result"])
def test_a_fault_that_falls_into_a_cycle_and_goes_away_leaves_no_pass_behind(phase):
    plc = Plc()
    plc.step(trigger=True)
    if phase == "result":
        plc.tell(State.PASS)
        assert plc.step().passed
    plc.standing = Error.LOOP_SILENT
    assert "ng fault" in lit(plc.step())
    plc.standing = Error.NONE
    plc.tell(State.PASS)
    signals = plc.step()
    assert lit(signals) == "result_valid ng fault" and signals.result is Result.NO_DECISION
    plc.step(trigger=False, ack=True)
    assert lit(plc.step(ack=False)) == "ready"


def test_an_ack_while_busy_ends_nothing():
    plc = Plc()
    plc.step(trigger=True)
    assert lit(plc.step(ack=True)) == "busy"
    plc.tell(State.PASS)
    assert plc.step().passed
    assert plc.step(ack=False).passed


@pytest.mark.parametrize("seed", range(20))
def test_whatever_bits_come_pass_is_only_read_with_its_result_and_without_fault_and_triggers_add_up(seed):
    rng = random.Random(seed)
    plc = Plc()
    edges, told = 0, {}
    for _ in range(3000):
        trigger, ack = rng.random() < 0.5, rng.random() < 0.5
        edges += trigger and not plc.trigger
        plc.standing = rng.choice([Error.NONE] * 9 + [Error.BOX])
        before = plc.handshake.signals()
        if rng.random() < 0.4:
            state = rng.choice(list(State))
            acquisition = before.acquisition - rng.choice([0, 0, 0, 1])
            if plc.handshake.result(acquisition, state):
                told[acquisition] = state
        signals = plc.step(trigger, ack, rng.choice([1, 10, TIMEOUT_NS + 1]))
        assert edges == signals.acquisition + signals.overruns
        assert signals.missed <= signals.acquisition
        assert not signals.passed or (signals.result_valid and not signals.fault and not signals.ng)
        assert not signals.passed or told[signals.acquisition] is State.PASS
        assert signals.ng or not signals.fault
        assert sum((signals.ready, signals.busy, signals.result_valid)) <= 1 and not (signals.ready and signals.fault)
