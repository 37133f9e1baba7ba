"""The gate fails closed: no part passes without its PASS, whatever fails; every other part does on a healthy line."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import pytest

from diagline.errors import ConfigError
from diagline.verdict import State
from edge_runtime.gate.config import GateConfig
from edge_runtime.gate.driver import GateDriver, SimulatedActuator
from edge_runtime.gate.gate import INBOX_MAX, MS, Did, Gate
from edge_runtime.gate.simulator import Conveyor, Faults, Outcome, Part, verdict
from edge_runtime.trigger import Trigger

DELAY = GateConfig(delay_ms=300, open_ms=30, heartbeat_ms=20, gap_ms=20, step_ms=1)
ENCODER = replace(DELAY, by="encoder", distance=3000, open_counts=300, counts_per_s=12_000, stall_ms=25)
BOTH = pytest.mark.parametrize("config", [DELAY, ENCODER], ids=["delay", "encoder"])
SPEED, APART, TRANSIT_MS = 10, 600, 330  # counts a millisecond; counts between parts at least; camera to past the gate


def row(*says: State | None, first: int = 1000, apart: int = APART) -> list[Part]:
    """Parts on the belt, each with one verdict 100 ms after its trigger, or none."""
    return [
        Part(f"p{number}", first + number * apart, says=() if said is None else ((100, said),))
        for number, said in enumerate(says)
    ]


def ride(config: GateConfig, parts: list[Part], faults: Faults | None = None) -> Outcome:
    return Conveyor(config, SPEED).run(parts, faults)


def why(outcome: Outcome, part_id: str | None) -> str:
    return "; ".join(event.why for event in outcome.events if event.part_id == part_id)


@BOTH
def test_only_a_pass_opens_the_gate_and_only_for_its_own_part(config):
    outcome = ride(config, row(State.PASS, State.REJECT, State.NO_DECISION, None, State.PASS))
    assert outcome.passed == {"p0", "p4"} and not outcome.wrong
    dids = [outcome.did(f"p{number}") for number in range(5)]
    assert dids == [[Did.PASSED], [Did.REJECTED], [Did.REJECTED], [Did.REJECTED], [Did.PASSED]]
    assert "REJECT" in why(outcome, "p1") and "NO_DECISION: timeout" in why(outcome, "p2")
    assert "no verdict" in why(outcome, "p3")


@BOTH
def test_the_gate_is_closed_before_its_part_comes_and_after_it_has_gone(config):
    """Parts that stray beyond the window do not get through on a PASS of their own."""
    early, late = (
        replace(row(State.PASS)[0], strays=-170),
        replace(row(State.PASS)[0], part_id="p1", at=3000, strays=170),
    )
    assert ride(config, [early, late]).rejected == {"p0", "p1"}


@BOTH
def test_a_pass_that_comes_after_its_part_is_late_and_the_part_was_rejected(config):
    part = Part("p0", 1000, says=((305, State.PASS),))
    conveyor = Conveyor(config, SPEED)
    outcome = conveyor.run([part])
    assert outcome.rejected == {"p0"} and outcome.did("p0") == [Did.REJECTED]
    assert "no verdict before it reached the gate" in why(outcome, "p0") and "late verdict: PASS" in why(outcome, "p0")
    assert conveyor.driver.health().counts["late"] == 1


@BOTH
@pytest.mark.parametrize("second", [State.REJECT, State.NO_DECISION])
@pytest.mark.parametrize("order", [1, -1])
def test_of_two_verdicts_whatever_is_not_pass_wins(config, second, order):
    said = [State.PASS, second][::order]
    outcome = ride(config, [Part("p0", 1000, says=((100, said[0]), (150, said[1])))])
    assert outcome.rejected == {"p0"} and "second verdict" in why(outcome, "p0")
    record = next(event for event in outcome.events if event.did is Did.REJECTED)
    assert record.why.startswith(second.value)


@BOTH
def test_a_pass_said_twice_is_a_pass(config):
    outcome = ride(config, [Part("p0", 1000, says=((100, State.PASS), (150, State.PASS)))])
    assert outcome.passed == {"p0"}


@BOTH
def test_a_reject_that_comes_while_the_gate_is_open_closes_it_and_the_record_says_unsure(config):
    outcome = ride(config, [Part("p0", 1000, says=((100, State.PASS), (305, State.REJECT)))])
    assert outcome.rejected == {"p0"} and outcome.did("p0") == [Did.UNSURE]


@BOTH
def test_without_a_heartbeat_everything_is_rejected_until_the_loop_beats_again(config):
    parts = row(*[State.PASS] * 30)
    outcome = ride(config, parts, Faults(loop=[(700, 1200)]))
    assert not outcome.wrong
    for part in parts:
        arrived = outcome.arrived_ms[part.part_id]
        if 750 < arrived < 1200:
            assert part.part_id in outcome.rejected and "no heartbeat" in why(outcome, part.part_id)
        if arrived < 680 or arrived > 1220:
            assert part.part_id in outcome.passed
    assert "no heartbeat" in why(outcome, None) and "the loop beats" in why(outcome, None)


@BOTH
def test_a_gate_that_was_never_beaten_to_stays_closed(config):
    assert ride(config, row(State.PASS), Faults(loop=[(0, 10_000)])).rejected == {"p0"}


DOUBTS: dict[str, Faults] = {
    "the clock ran back": Faults(clock_steps={800: -50}),
    "did not run": Faults(gate=[(800, 830)]),
    "was not announced": Faults(unknown=[800]),
    "no power": Faults(actuator=[(800, 802)]),
}
ENCODER_DOUBTS: dict[str, Faults] = {
    "ran back": Faults(encoder_steps={800: -600}),
    "jumped": Faults(encoder_steps={800: 600}),
    "stood still": Faults(encoder_dead=[(800, 840)]),
    "does not answer": Faults(encoder_silent=[(800, 802)]),
}


@pytest.mark.parametrize(
    ("config", "cause", "faults"),
    [(config, *doubt) for config in (DELAY, ENCODER) for doubt in DOUBTS.items()]
    + [(DELAY, "did not run", Faults(clock_steps={800: 100}))]
    + [(ENCODER, *doubt) for doubt in ENCODER_DOUBTS.items()],
)
def test_doubt_rejects_what_is_on_the_way_and_nothing_that_is_triggered_afterwards(config, cause, faults):
    parts = row(*[State.PASS] * 40)
    outcome = ride(config, parts, faults)
    assert not outcome.wrong and cause in why(outcome, None)
    passed = [part.part_id for part in parts if part.part_id in outcome.passed]
    for part in parts:
        triggered, arrived = outcome.triggered_ms[part.part_id], outcome.arrived_ms[part.part_id]
        assert len(outcome.did(part.part_id)) == 1
        if arrived < 780 or triggered > 880:
            assert part.part_id in passed, part
        if triggered < 795 and arrived > 865:
            assert part.part_id not in passed and cause in why(outcome, part.part_id)


@BOTH
def test_more_parts_than_configured_are_rejected_and_so_is_all_that_was_on_the_way(config):
    parts = row(*[State.PASS] * 4, first=1000, apart=400) + row(*[State.PASS] * 4, first=30_000, apart=1300)[1:]
    parts = [replace(part, part_id=f"q{number}") for number, part in enumerate(parts)]
    outcome = ride(replace(config, parts_max=3), parts)
    assert outcome.rejected == {"q0", "q1", "q2", "q3"} and outcome.passed == {"q4", "q5", "q6"}
    assert "more than 3 parts" in why(outcome, "q3") and "more than 3 parts" in why(outcome, "q0")


@BOTH
def test_a_part_close_behind_another_passes_only_if_both_do(config):
    for pair, passed in [((State.PASS, State.PASS), {"p0", "p1"}), ((State.REJECT, State.PASS), set())]:
        outcome = ride(config, row(*pair, apart=100))
        assert outcome.passed == passed and not outcome.wrong
    outcome = ride(config, row(State.PASS, State.REJECT, apart=200))
    assert not outcome.wrong and outcome.did("p0") == [Did.UNSURE] and outcome.did("p1") == [Did.REJECTED]


def test_a_belt_that_stands_still_with_parts_on_it_rejects_them_and_goes_on_with_the_next():
    parts = row(*[State.PASS] * 20)
    outcome = ride(ENCODER, parts, Faults(belt=[(800, 1500)]))
    assert not outcome.wrong
    assert [part.part_id in outcome.passed for part in parts].count(False) in (5, 6)
    assert parts[-1].part_id in outcome.passed


# Healthy and sick lines at random. `_faults` keeps them further apart than a part's whole way.
KINDS: dict[str, Callable[[random.Random, int], dict[str, object]]] = {
    "loop": lambda rng, ms: {"loop": (ms, ms + rng.randint(1, 300))},
    "gate": lambda rng, ms: {"gate": (ms, ms + rng.randint(1, 300))},
    "clock": lambda rng, ms: {"clock_steps": (ms, rng.choice([-5000, -100, -3, 5, 15, 40, 5000]))},
    "actuator": lambda rng, ms: {"actuator": (ms, ms + rng.randint(1, 50))},
    "unknown": lambda rng, ms: {"unknown": ms},
    "belt": lambda rng, ms: {"belt": (ms, ms + rng.randint(1, 300))},
    "dead": lambda rng, ms: {"encoder_dead": (ms, ms + rng.randint(1, 300))},
    "silent": lambda rng, ms: {"encoder_silent": (ms, ms + rng.randint(1, 100))},
    "jump": lambda rng, ms: {"encoder_steps": (ms, rng.choice([-9000, -600, -13, -3, 3, 5, 300, 600, 9000]))},
}


def _faults(rng: random.Random, by: str, until_ms: int) -> tuple[Faults, list[int]]:
    kinds = [kind for kind in KINDS if by == "encoder" or kind in ("loop", "gate", "clock", "actuator", "unknown")]
    found: dict[str, list[object]] = {}
    at, times = 900, []
    while at < until_ms:
        for key, value in KINDS[rng.choice(kinds)](rng, at).items():
            found.setdefault(key, []).append(value)
        times.append(at)
        at += rng.randint(1000, 5000)
    shaped = {key: dict(values) if key.endswith("_steps") else values for key, values in found.items()}  # type: ignore[arg-type]
    return Faults(**shaped), times  # type: ignore[arg-type]


def _parts(rng: random.Random, count: int) -> list[Part]:
    parts, at = [], 1000
    for number in range(count):
        state = rng.choices([State.PASS, State.REJECT, State.NO_DECISION, None], [6, 3, 1, 1])[0]
        says = [] if state is None else [(rng.choice([1, 50, 200, 290, 298, 299, 300, 310, 400, 900]), state)]
        if rng.random() < 0.1:
            says.append((rng.randint(1, 500), rng.choice(list(State))))
        parts.append(Part(f"p{number}", at, rng.randint(-100, 100), tuple(says), rng.random() > 0.03))
        at += APART + rng.choice([0, 0, 50, 300, 4000])
    return parts


@BOTH
@pytest.mark.parametrize("seed", range(12))
def test_no_part_without_a_pass_ever_passes_and_every_other_does_where_the_line_is_healthy(config, seed):
    """300 parts a seed: verdicts late, missing, twice, out of order; and every fault there is."""
    rng = random.Random(seed)
    parts = _parts(rng, 300)
    faults, times = _faults(rng, config.by, parts[-1].at // SPEED)
    outcome = ride(config, parts, faults)
    assert not outcome.wrong and len(outcome.passed) + len(outcome.rejected) == 300
    healthy = 0
    for part in parts:
        did = outcome.did(part.part_id)
        assert len(did) == part.announced
        assert part.part_id not in outcome.passed or did[0] in (Did.PASSED, Did.UNSURE)
        start, end = outcome.triggered_ms[part.part_id], outcome.arrived_ms[part.part_id]
        if any(start - 2 * TRANSIT_MS - 300 < at < end + 50 for at in times) or not part.announced:
            continue
        timely = {state for after_ms, state in part.says if after_ms <= 298}
        if timely == {State.PASS} and {state for _, state in part.says} == {State.PASS}:
            assert part.part_id in outcome.passed and did == [Did.PASSED], part
            healthy += 1
    assert healthy > 10


@BOTH
def test_verdicts_in_any_order_meet_their_parts(config):
    parts = [
        Part("p0", 1000, says=((250, State.PASS),)),
        Part("p1", 1600, says=((10, State.REJECT),)),
        Part("p2", 2200, says=((5, State.PASS),)),
    ]
    assert ride(config, parts).passed == {"p0", "p2"}


# What the state machine is told, without a belt.


def gate_at(config: GateConfig, now_ns: int, position: int | None = None) -> Gate:
    gate = Gate(config)
    gate.beat(now_ns)
    gate.step(now_ns, position)
    return gate


def test_a_trigger_pulled_after_the_clock_was_read_is_not_one_of_the_future():
    gate = gate_at(DELAY, 1000 * MS)
    gate.expect(Trigger("p0", 1001 * MS, ""))
    gate.judge(verdict("p0", State.PASS))
    assert gate.step(1000 * MS).events == () and gate.on_the_way == 0
    gate.step(1001 * MS)
    assert gate.on_the_way == 1 and gate.fault is None and gate.counts["unknown"] == 0


BAD_TRIGGERS = {
    "in the future": (Trigger("p1", 1050 * MS, "", 1100),),
    "out of order": (Trigger("p1", 1001 * MS, "", 1001), Trigger("p2", 1000 * MS, "", 900)),
    "used before": (Trigger("p1", 1001 * MS, "", 1001), Trigger("p1", 1002 * MS, "", 1002)),
}


@BOTH
@pytest.mark.parametrize("cause", BAD_TRIGGERS)
def test_a_trigger_that_cannot_be_true_rejects_everything_on_the_way(config, cause):
    gate = gate_at(config, 1000 * MS, 1000)
    gate.expect(Trigger("p0", 1000 * MS, "", 1000))
    for trigger in BAD_TRIGGERS[cause]:
        gate.expect(trigger)
    events = [event for ms in (2, 3) for event in gate.step((1000 + ms) * MS, 1000 + ms).events]
    rejected = {event.part_id for event in events if event.did is Did.REJECTED}
    assert rejected == {"p0", *(trigger.part_id for trigger in BAD_TRIGGERS[cause])}
    assert gate.fault is not None and cause in gate.fault and gate.on_the_way == 0


def test_by_encoder_a_trigger_without_a_position_rejects_everything_on_the_way():
    gate = gate_at(ENCODER, 1000 * MS, 1000)
    gate.expect(Trigger("p0", 1000 * MS, ""))
    gate.step(1001 * MS, 1001)
    assert gate.counts["rejected"] == 1 and "without an encoder position" in str(gate.fault)


def test_with_a_latch_a_fault_holds_the_gate_until_it_is_acknowledged():
    gate = gate_at(replace(DELAY, latch=True), 1000 * MS)
    gate.fail("a trigger was lost")
    gone_ms = 1000 + round(DELAY.delay_ms + DELAY.open_ms) + 2
    for ms in range(1000, gone_ms, 10):
        gate.beat(ms * MS)
        gate.step(ms * MS)
    assert gate.waits and str(gate.fault) == "a trigger was lost, not acknowledged"
    assert gate.acknowledge() == "a trigger was lost"
    gate.beat(gone_ms * MS)
    events = gate.step(gone_ms * MS).events
    assert gate.fault is None and not gate.waits and [event.why for event in events] == ["acknowledged"]
    assert gate.acknowledge() is None


def test_a_fault_whose_cause_stands_is_not_acknowledged_away():
    gate = gate_at(replace(ENCODER, latch=True), 1000 * MS, 1000)
    gate.step(1001 * MS, None)
    assert gate.acknowledge() == "the encoder does not answer"
    gate.step(1002 * MS, None)
    assert gate.waits and gate.fault is not None


def test_with_a_latch_a_loop_that_beats_again_waits_to_be_acknowledged():
    gate = gate_at(replace(DELAY, latch=True), 1000 * MS)
    assert not gate.waits  # a box that starts waits for nobody
    late_ms = 1000 + round(DELAY.heartbeat_ms) + 1
    for ms in range(1000, late_ms + 1, round(DELAY.step_ms)):
        gate.step(ms * MS)
    gate.step(late_ms * MS)
    gate.beat(late_ms * MS)
    gate.step(late_ms * MS)
    assert gate.waits and str(gate.fault).startswith("no heartbeat of the loop")


def test_a_trigger_from_before_the_encoder_jumped_is_not_put_where_it_counts_now():
    gate = gate_at(ENCODER, 1000 * MS, 1000)
    gate.step(1002 * MS, 4000)
    gate.expect(Trigger("p0", 1001 * MS, "", 3990))  # would open at 6990, while the gate stays closed until 7300
    gate.expect(Trigger("p1", 1002 * MS, "", 4000))
    events = gate.step(1003 * MS, 4010).events
    assert [event.part_id for event in events] == ["p0"] and "before the fault" in events[0].why
    assert gate.on_the_way == 1


def test_a_pass_whose_part_went_by_between_two_steps_is_on_record_as_rejected():
    gate = gate_at(replace(DELAY, open_ms=2), 1000 * MS)
    gate.expect(Trigger("p0", 1000 * MS, ""))
    gate.judge(verdict("p0", State.PASS))
    for ms in range(1, 299, 10):
        gate.beat((1000 + ms) * MS)
        gate.step((1000 + ms) * MS)
    (event,) = gate.step(1305 * MS).events
    assert event.did is Did.REJECTED and "did not run" in event.why


def test_a_heartbeat_from_another_time_is_none():
    gate = gate_at(DELAY, 1000 * MS)
    gate.beat(2000 * MS)
    gate.step(1001 * MS)
    assert gate.fault == "no heartbeat of the loop"


def test_an_encoder_that_creeps_back_is_noticed():
    gate = gate_at(ENCODER, 1000 * MS, 1000)
    for ms in range(1, 4):
        gate.step((1000 + ms) * MS, 1000 - ms)
    assert "ran back" in str(gate.fault)


def test_more_than_the_gate_can_take_in_is_a_fault_and_not_a_memory_leak():
    gate = gate_at(DELAY, 1000 * MS)
    gate.expect(Trigger("p0", 1000 * MS, ""))
    for number in range(INBOX_MAX + 10):
        gate.judge(verdict("p0", State.PASS if number == 0 else State.REJECT))
    gate.step(1001 * MS)
    assert "more than it could take in" in str(gate.fault)


@pytest.mark.parametrize(
    "wrong", [{"by": "time"}, {"open_ms": 0}, {"gap_ms": 1.0}, {"parts_max": 0}, {"delay_ms": float("nan")}]
)
def test_a_config_that_cannot_work_is_refused(wrong):
    with pytest.raises(ConfigError, match=rf"gate\.{next(iter(wrong))} = "):
        GateConfig(**wrong)


# The thread.


def test_the_thread_moves_the_actuator_and_close_rejects_and_ends_it():
    import threading

    actuator, noted = SimulatedActuator(), threading.Event()
    driver = GateDriver(DELAY, actuator, lambda event: noted.set())
    driver.start()
    driver.gate.fail("a trigger was lost")
    assert noted.wait(20)
    driver.close()
    assert actuator.closed and not any(thread.name == "gate" for thread in threading.enumerate())


def test_an_actuator_or_record_that_raises_is_counted_and_stops_nothing():
    now = 1000 * MS

    def record(event: object) -> None:
        raise ValueError("disk full")

    driver = GateDriver(DELAY, SimulatedActuator(clock=lambda: now), record, clock=lambda: now)
    driver._actuator.broken = RuntimeError("no\npower")  # type: ignore[attr-defined]
    driver.step()
    driver.step()
    health = driver.health()
    assert health.actuator_errors == 2 and health.record_errors == 1 and health.stepped_ns == now
    driver.gate.beat(now)
    driver.step()
    assert driver.health().fault == "actuator: RuntimeError: no power"


def test_an_actuator_that_cannot_accept_is_told_to_reject_at_once():
    class Half(SimulatedActuator):
        def __init__(self) -> None:
            super().__init__()
            self.told: list[str] = []

        def accept(self) -> None:
            self.told.append("accept")
            raise OSError("stuck")

        def reject(self) -> None:
            self.told.append("reject")

    half, now = Half(), [1000 * MS]
    driver = GateDriver(DELAY, half, lambda event: None, clock=lambda: now[0])
    driver.gate.expect(Trigger("p0", now[0], ""))
    driver.gate.judge(verdict("p0", State.PASS))
    while "accept" not in half.told:
        driver.gate.beat(now[0])
        driver.step()
        now[0] += MS
    assert half.told[-2:] == ["accept", "reject"]
    driver.step()
    assert half.told[-2:] == ["reject", "reject"] and driver.health().counts["unsure"] == 1
