from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from generation.studio.prompt_book import entries, wilson
from generation.studio.session import ACCEPTED, REJECTED, Candidate


def one(number: int, prompt: str, decision: str | None = None, method: str = "diag", negative: str = "") -> Candidate:
    return Candidate(number, "0.png", prompt, negative, "", method, decision, None, None, {}, None, {})


def test_an_entry_counts_what_was_shown_and_judged() -> None:
    (entry,) = entries([one(1, "a", ACCEPTED), one(2, "a", REJECTED), one(3, "a"), one(4, "a", ACCEPTED)])
    assert (entry.prompt, entry.method, entry.shown, entry.accepted, entry.rejected) == ("a", "diag", 4, 2, 1)
    assert entry.rate == pytest.approx(2 / 3)
    assert entry.numbers == (4, 1, 3, 2)


def test_other_words_and_another_method_are_other_entries() -> None:
    found = entries([one(1, "a"), one(2, "b"), one(3, "a", negative="c"), one(4, "a", method="in_and_out")])
    assert [entry.numbers for entry in found] == [(1,), (2,), (3,), (4,)]
    assert [(entry.rate, entry.low, entry.high) for entry in found] == [(None, 0.0, 1.0)] * 4


def test_memseg_reads_no_words_and_is_one_entry() -> None:
    found = entries([one(1, "a", ACCEPTED, "memseg"), one(2, "b", method="memseg", negative="c")])
    assert [(entry.prompt, entry.negative_prompt, entry.shown) for entry in found] == [("", "", 2)]


def test_many_good_judgements_rank_above_one_lucky_one_and_equals_by_how_many_were_shown() -> None:
    lucky = [one(1, "lucky", ACCEPTED)]
    proven = [one(number, "proven", ACCEPTED if number % 10 else REJECTED) for number in range(10, 40)]
    bad = [one(number, "bad", REJECTED) for number in range(50, 53)]
    unjudged = [one(number, "unjudged") for number in range(60, 68)]
    order = [entry.prompt for entry in entries([*lucky, *bad, *unjudged, *proven])]
    assert order == ["proven", "lucky", "unjudged", "bad"]


@pytest.mark.parametrize(
    ("accepted", "judged", "low", "high"),
    [(0, 0, 0.0, 1.0), (0, 10, 0.0, 0.277533), (10, 10, 0.722467, 1.0), (1, 2, 0.094531, 0.905469),
     (15, 50, 0.191032, 0.437507)],
)  # fmt: skip
def test_the_interval_is_wilsons(accepted: int, judged: int, low: float, high: float) -> None:
    assert wilson(accepted, judged) == pytest.approx((low, high), abs=1e-5)


@given(st.integers(1, 1000).flatmap(lambda judged: st.tuples(st.integers(0, judged), st.just(judged))))
def test_the_interval_holds_the_rate_and_mirrors(counts: tuple[int, int]) -> None:
    accepted, judged = counts
    low, high = wilson(accepted, judged)
    assert 0.0 <= low <= accepted / judged <= high <= 1.0
    mirrored = wilson(judged - accepted, judged)
    assert (1 - high, 1 - low) == pytest.approx(mirrored, abs=1e-12)


def test_the_books_order_does_not_depend_on_the_order_of_the_candidates() -> None:
    found = [one(number, f"p{number % 5}", (None, ACCEPTED, REJECTED)[number % 3]) for number in range(40)]
    shuffled = random.Random(1).sample(found, len(found))
    assert entries(found) == entries(shuffled)
    assert entries([]) == []
