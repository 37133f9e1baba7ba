"""The encoder: a counter's file, read as a distance that never starts again."""

from __future__ import annotations

from pathlib import Path

import pytest

from diagline.errors import ConfigError
from edge_runtime.doctor.line import encoder
from edge_runtime.doctor.probes import Grade
from edge_runtime.gate.encoder import Encoder, EncoderConfig

MS = 1_000_000


class Belt:
    """A counter and a clock that a test moves."""

    def __init__(self, folder: Path, start: int = 0, ceiling: int | None = None, reverse: bool = False) -> None:
        self.now_ns = 0
        self.counter = folder / "count"
        if ceiling is not None:
            (folder / "ceiling").write_text(f"{ceiling}\n")
        self.counter.write_text(f"{start}\n")
        self.encoder = Encoder(EncoderConfig(self.counter, reverse), lambda: self.now_ns)

    def read(self, raw: int, at_ms: int = 0) -> int:
        self.now_ns = at_ms * MS
        self.counter.write_text(f"{raw}\n")
        return self.encoder.read()


def test_the_distance_counts_from_where_the_belt_was_when_the_box_started(tmp_path: Path) -> None:
    belt = Belt(tmp_path, start=40_000)
    assert [belt.read(raw) for raw in (40_000, 40_010, 40_005, 90_000)] == [0, 10, 5, 50_000]


def test_a_counter_that_starts_again_from_zero_has_gone_on(tmp_path: Path) -> None:
    belt = Belt(tmp_path, start=65_530, ceiling=65_535)
    assert [belt.read(raw) for raw in (65_535, 0, 4, 65_534)] == [5, 6, 10, 4]


def test_a_counter_mounted_the_other_way_round_counts_forwards(tmp_path: Path) -> None:
    belt = Belt(tmp_path, start=3, ceiling=99, reverse=True)
    assert [belt.read(raw) for raw in (0, 98)] == [3, 5]


def test_where_the_belt_was_is_reckoned_between_two_readings(tmp_path: Path) -> None:
    belt = Belt(tmp_path)
    belt.read(100, at_ms=10)
    belt.read(300, at_ms=20)
    assert [belt.encoder.at(ms * MS) for ms in (0, 5, 10, 15, 20)] == [0, 50, 100, 200, 300]
    belt.counter.write_text("400")
    belt.now_ns = 24 * MS
    assert belt.encoder.at(22 * MS) == 350  # read anew: the moment is later than the last reading


def test_a_moment_nobody_knows_of_has_no_position(tmp_path: Path) -> None:
    belt = Belt(tmp_path)
    belt.read(100, at_ms=10)
    assert belt.encoder.at(-1) is None and belt.encoder.at(11 * MS) is None  # long ago, and to come
    belt.counter.unlink()
    belt.now_ns = 20 * MS
    assert belt.encoder.at(15 * MS) is None and belt.encoder.at(10 * MS) == 100


@pytest.mark.parametrize("wrong", ["", "counts", None])
def test_a_file_that_is_no_counter_is_refused_by_name(wrong: str | None, tmp_path: Path) -> None:
    counter = tmp_path / "count"
    if wrong is not None:
        counter.write_text(wrong)
    with pytest.raises(ConfigError, match=rf"encoder.count = '{counter}'.*expected a counter's file"):
        Encoder(EncoderConfig(counter))


def test_the_doctor_reads_the_counter_and_says_what_to_do_without_one(tmp_path: Path) -> None:
    counter = tmp_path / "count"
    counter.write_text("1234\n")
    (well,) = encoder(EncoderConfig(counter))
    counter.unlink()
    (wrong,) = encoder(EncoderConfig(counter))
    assert (well.grade, wrong.grade) == (Grade.WELL, Grade.WRONG)
    assert "1234" in well.found and str(counter) in wrong.found and wrong.next
