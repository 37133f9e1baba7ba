"""Only a confirmed PASS opens the gate."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diagline.verdict import State, Verdict, decide

numbers = st.floats(allow_nan=True, allow_infinity=True)


def verdict(state, logit, cause=None):
    return Verdict("part-1", state, logit, 0.5, "line@0123456789ab", "2025-01-01T00:00:00.000000+00:00", cause)


@given(numbers, numbers)
def test_pass_is_said_only_below_the_threshold(logit, threshold):
    assert (decide(logit, threshold) is State.PASS) == (logit < threshold)
    assert decide(logit, threshold) in (State.PASS, State.REJECT)


@given(st.integers(-128, 127))
def test_the_threshold_itself_rejects_and_one_step_below_passes(threshold):
    assert decide(threshold, threshold) is State.REJECT
    assert decide(threshold - 1, threshold) is State.PASS


@pytest.mark.parametrize(("logit", "threshold"), [(math.nan, 0.0), (0.0, math.nan), (math.nan, math.inf)])
def test_nan_never_passes(logit, threshold):
    assert decide(logit, threshold) is State.REJECT


@pytest.mark.parametrize(
    ("state", "logit", "cause"),
    [
        (State.PASS, None, None),
        (State.REJECT, None, None),
        (State.PASS, 0.1, "timeout"),
        (State.REJECT, 0.9, "timeout"),
        (State.NO_DECISION, None, None),
        (State.NO_DECISION, 0.1, "timeout"),
        (State.NO_DECISION, 0.1, None),
        (State.PASS, None, "timeout"),
    ],
)
def test_a_verdict_without_its_evidence_cannot_be_made(state, logit, cause):
    with pytest.raises(ValueError, match="part-1"):
        verdict(state, logit, cause)


def test_the_gate_opens_for_pass_alone():
    assert verdict(State.PASS, 0.1).opens_gate
    assert not verdict(State.REJECT, 0.9).opens_gate
    assert not verdict(State.NO_DECISION, None, "no frame").opens_gate


def test_every_state_is_plain_json():
    for made in (verdict(State.PASS, 0.1), verdict(State.REJECT, 1.0), verdict(State.NO_DECISION, None, "black")):
        record = json.loads(json.dumps(made.record()))
        assert record["state"] == made.state.value and record["logit"] == made.logit and record["cause"] == made.cause


@pytest.mark.parametrize(
    ("state", "logit"), [(State.PASS, 5.0), (State.PASS, 7.0), (State.PASS, math.nan), (State.REJECT, 4.0)]
)
def test_a_verdict_cannot_contradict_its_own_logit(state, logit):
    with pytest.raises(ValueError, match="against"):
        Verdict("a", state, logit, threshold=5.0, model="m", taken_utc="now")
