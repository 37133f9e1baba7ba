"""Every trigger gets exactly one verdict, at its deadline at the latest, and the counts reconcile."""

from __future__ import annotations

import threading

from hypothesis import given
from hypothesis import strategies as st

from diagline.verdict import State, Verdict
from edge_runtime.ledger import Decision, Ledger
from edge_runtime.trigger import Trigger

DEADLINE_NS = 100


def verdict(part_id: str, state: State, cause: str | None = None) -> Verdict:
    logit = {State.PASS: -1.0, State.REJECT: 1.0, State.NO_DECISION: None}[state]
    return Verdict(part_id, state, logit, 0.0, "m", "", cause)


class Line:
    """A ledger with a clock that stands still until it is set."""

    def __init__(self, most_open: int = 100) -> None:
        self.now_ns = 0
        self.decisions: list[Decision] = []
        self.ledger = Ledger(
            DEADLINE_NS,
            most_open,
            lambda trigger, cause: verdict(trigger.part_id, State.NO_DECISION, cause),
            self.decisions.append,
            lambda: self.now_ns,
        )

    def open(self, part_id: str = "a") -> int | None:
        return self.ledger.open(Trigger(part_id, self.now_ns, ""))

    def reconciles(self) -> bool:
        tally = self.ledger.tally()
        return tally.triggers == sum(tally.states.values()) + tally.open and sum(tally.states.values()) == len(
            self.decisions
        )


def test_a_verdict_in_time_stands_and_a_second_one_is_dropped() -> None:
    line = Line()
    ticket = line.open()
    assert ticket is not None
    line.now_ns = DEADLINE_NS
    assert line.ledger.decide(ticket, verdict("a", State.PASS), None)
    assert not line.ledger.decide(ticket, verdict("a", State.REJECT), None)
    assert [decision.verdict.state for decision in line.decisions] == [State.PASS]
    assert line.ledger.tally().dropped == 1 and line.reconciles()


def test_a_verdict_after_its_deadline_is_no_decision_even_where_nobody_watched() -> None:
    line = Line()
    ticket = line.open()
    assert ticket is not None
    line.now_ns = DEADLINE_NS + 1
    assert not line.ledger.decide(ticket, verdict("a", State.PASS), None)
    (decision,) = line.decisions
    assert decision.verdict.state is State.NO_DECISION and "late" in str(decision.verdict.cause)
    tally = line.ledger.tally()
    assert (tally.late, tally.dropped, tally.open) == (1, 1, 0)


def test_expire_decides_what_is_due_and_says_when_the_next_is() -> None:
    line = Line()
    line.open("a")
    line.now_ns = 40
    line.open("b")
    assert line.ledger.expire() == DEADLINE_NS and not line.decisions
    line.now_ns = DEADLINE_NS
    assert line.ledger.expire() == 40 + DEADLINE_NS
    assert [decision.trigger.part_id for decision in line.decisions] == ["a"]
    line.now_ns = 1000
    assert line.ledger.expire() is None and line.ledger.tally().late == 2 and line.reconciles()


def test_more_open_triggers_than_allowed_are_no_decision_at_once() -> None:
    line = Line(most_open=2)
    assert [line.open(name) is None for name in "abc"] == [False, False, True]
    assert [decision.trigger.part_id for decision in line.decisions] == ["c"]
    assert "more than 2 parts" in str(line.decisions[0].verdict.cause) and line.reconciles()


def test_what_is_open_when_the_box_stops_is_no_decision() -> None:
    line = Line()
    line.open()
    line.ledger.close()
    assert [decision.verdict.cause for decision in line.decisions] == ["the box was stopped"] and line.reconciles()


ACTIONS = st.lists(
    st.tuples(st.sampled_from(["open", "decide", "tick", "expire", "give up"]), st.integers(0, 120)), max_size=60
)


@given(ACTIONS)
def test_the_counts_reconcile_after_any_history(actions: list[tuple[str, int]]) -> None:
    line, tickets = Line(most_open=5), [0]
    for action, number in actions:
        ticket = tickets[number % len(tickets)]
        if action == "open":
            tickets.append(line.open(str(number)) or 0)
        elif action == "decide":
            line.ledger.decide(ticket, verdict("x", State.PASS if number % 2 else State.REJECT), None)
        elif action == "tick":
            line.now_ns += number
        elif action == "expire":
            line.ledger.expire()
        else:
            line.ledger.give_up(ticket, "asked")
        assert line.reconciles()
    line.now_ns += 10 * DEADLINE_NS
    line.ledger.expire()
    tally = line.ledger.tally()
    assert tally.open == 0 and line.reconciles()


def test_two_threads_that_decide_the_same_triggers_decide_each_once() -> None:
    line, tickets = Line(most_open=2000), []
    for number in range(1000):
        tickets.append(line.open(str(number)))
    start = threading.Barrier(3)

    def race(state: State) -> None:
        start.wait()
        for ticket in tickets:
            assert ticket is not None
            line.ledger.decide(ticket, verdict("x", state), None)

    threads = [threading.Thread(target=race, args=(state,)) for state in (State.PASS, State.REJECT)]
    for thread in threads:
        thread.start()
    start.wait()
    for thread in threads:
        thread.join()
    tally = line.ledger.tally()
    assert len(line.decisions) == 1000 == sum(tally.states.values()) and tally.dropped == 1000


def test_the_deadline_is_kept_by_a_thread_of_its_own() -> None:
    import time

    heard = threading.Event()
    ledger = Ledger(
        20_000_000,
        10,
        lambda trigger, cause: verdict(trigger.part_id, State.NO_DECISION, cause),
        lambda decision: heard.set(),
    )
    ledger.start()
    ledger.open(Trigger("a", time.monotonic_ns(), ""))
    assert heard.wait(10) and ledger.tally().late == 1
    ledger.close()
