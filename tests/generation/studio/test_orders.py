"""What a press of Paint asks for, and what is said when it cannot be done."""

from __future__ import annotations

import json
from typing import Any

import pytest

from diagline.errors import ConfigError, DatasetError
from generation.studio import orders
from generation.studio.session import Form


@pytest.mark.parametrize("value", [None, 0, -1, 1.5, orders.MOST + 1])
def test_a_count_that_cannot_be_used_is_named(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"count is .*expected a whole number from 1 to 64"):
        orders.count_of(value)


@pytest.mark.parametrize("value", [1, 3.0, orders.MOST])
def test_a_count_comes_as_the_browser_sends_it(value: Any) -> None:
    assert orders.count_of(value) == value and type(orders.count_of(value)) is int


def test_the_form_takes_the_fields_and_keeps_the_picture_and_a_count_it_cannot_read() -> None:
    before = Form(normal="a.png", count=7, person="Ada")
    form = orders.form_of(
        before, [" scratch ", None, "scuff", "diag", " m ", None, " Eve ", 30, 0], ("steps", "guidance")
    )
    assert form == Form("a.png", "scratch", "", "scuff", "diag", "m", 7, "Eve", {"steps": 30})


@pytest.mark.parametrize(
    ("board", "said"),
    [
        (orders.Board(), "no picture"),
        (orders.Board("a.png", corners=2), "2 corners is not closed"),
        (orders.Board("a.png", unsaved="disk full"), "not saved .disk full"),
    ],
)
def test_a_drawing_that_is_not_what_is_seen_is_refused(board: orders.Board, said: str) -> None:
    with pytest.raises(DatasetError, match=said):
        board.check()


def test_the_board_is_read_from_what_its_script_says() -> None:
    assert orders.Board.read("") == orders.Board()
    board = orders.Board.read(json.dumps({"normal": "a.png", "corners": 0, "unsaved": ""}))
    board.check()
    assert board.normal == "a.png"
