"""The prompt book: which words the expert accepts, and how sure that is.

Few judgements make a rate of 100 % by luck, so entries are ranked by what the rate is at least.
Leaves out: the candidates (`session.py`) and how the book looks (`shown.py`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from generation.studio.session import ACCEPTED, REJECTED, Candidate

_Z = 1.959963984540054  # two-sided 95 % of the normal distribution
_WORDLESS = frozenset({"memseg"})  # methods that do not read the expert's words


@dataclass(frozen=True, slots=True)
class Entry:
    """One pair of prompts under one method.

    Attributes:
        prompt, negative_prompt: the words; "" for a method that reads none.
        shown: candidates painted with them; `accepted` and `rejected` of them are judged.
        rate: accepted / judged; None before the first judgement.
        low, high: 95 % interval of the rate; 0 and 1 before the first judgement.
        numbers: the candidates: accepted, undecided, rejected, each newest first.
    """

    prompt: str
    negative_prompt: str
    method: str
    shown: int
    accepted: int
    rejected: int
    rate: float | None
    low: float
    high: float
    numbers: tuple[int, ...]


def entries(candidates: Sequence[Candidate]) -> list[Entry]:
    """The book, best first: by `low`, then by how many were shown, then the oldest first."""
    groups: dict[tuple[str, str, str], list[Candidate]] = {}
    for one in candidates:
        words = ("", "") if one.method in _WORDLESS else (one.prompt, one.negative_prompt)
        groups.setdefault((*words, one.method), []).append(one)
    found = [_entry(*key, group) for key, group in groups.items()]
    return sorted(found, key=lambda entry: (-entry.low, -entry.shown, min(entry.numbers)))


def wilson(accepted: int, judged: int) -> tuple[float, float]:
    """95 % interval of a rate, inside 0 to 1; (0, 1) where nothing was judged.

    Source: E. B. Wilson, *Probable inference, the law of succession, and statistical inference*,
    JASA 22 (1927).
    """
    if judged == 0:
        return 0.0, 1.0
    rate, square = accepted / judged, _Z**2
    centre = (rate + square / (2 * judged)) / (1 + square / judged)
    half = _Z * math.sqrt(rate * (1 - rate) / judged + square / (4 * judged**2)) / (1 + square / judged)
    # The ends are exact where all judgements agree; rounding must not rank them.
    return (0.0 if accepted == 0 else centre - half), (1.0 if accepted == judged else centre + half)


def _entry(prompt: str, negative_prompt: str, method: str, group: Sequence[Candidate]) -> Entry:
    accepted = sum(one.decision == ACCEPTED for one in group)
    rejected = sum(one.decision == REJECTED for one in group)
    judged = accepted + rejected
    low, high = wilson(accepted, judged)
    order = {ACCEPTED: 0, None: 1, REJECTED: 2}
    numbers = tuple(one.number for one in sorted(group, key=lambda one: (order[one.decision], -one.number)))
    rate = accepted / judged if judged else None
    return Entry(prompt, negative_prompt, method, len(group), accepted, rejected, rate, low, high, numbers)
