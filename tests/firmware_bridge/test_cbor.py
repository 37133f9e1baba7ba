"""The firmware's CBOR reader reads what a full one writes, and nothing that is not whole."""

from __future__ import annotations

import ctypes
import shutil
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_bridge.emulation import build

cbor2 = pytest.importorskip("cbor2", reason="cbor2 is not installed: pip install 'diagline[firmware]'")
pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler: apt-get install gcc")

SCALARS = st.one_of(st.integers(-(2**63), 2**64 - 1), st.binary(max_size=300), st.text(max_size=30), st.booleans())
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3), max_leaves=6
)
MAPS = st.dictionaries(st.text(max_size=10).filter(lambda key: "\0" not in key), VALUES, max_size=6)


class Map(ctypes.Structure):
    _fields_ = (("data", ctypes.c_char_p), ("bytes", ctypes.c_size_t))


@pytest.fixture(scope="module")
def reader() -> ctypes.CDLL:
    library = ctypes.CDLL(str(build.program("cbor.so", ["cbor.c"], ("-O1", "-shared", "-fPIC"))))
    library.cbor_is_map.restype = ctypes.c_bool
    return library


def depth(value: Any) -> int:
    """How many maps and arrays lie within one another."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(depth, inner), default=0)


def get(reader: ctypes.CDLL, whole: Map, key: str, like: object) -> object:
    """A key's value by the getter of its type; "other" where that says that it is of another type."""
    name = key.encode()
    if isinstance(like, bool):
        flag = ctypes.c_bool()
        return flag.value if reader.cbor_bool(ctypes.byref(whole), name, ctypes.byref(flag)) == 1 else "other"
    if isinstance(like, (bytes, str)):
        at, count = ctypes.c_void_p(), ctypes.c_size_t()
        getter = reader.cbor_bytes if isinstance(like, bytes) else reader.cbor_text
        if getter(ctypes.byref(whole), name, ctypes.byref(at), ctypes.byref(count)) != 1:
            return "other"
        found = ctypes.string_at(at.value or 0, count.value)
        return found if isinstance(like, bytes) else found.decode()
    number = ctypes.c_uint32()
    return number.value if reader.cbor_u32(ctypes.byref(whole), name, ctypes.byref(number)) == 1 else "other"


@given(MAPS)
def test_what_a_full_writer_writes_is_read(reader: ctypes.CDLL, value: dict[str, Any]) -> None:
    sent = cbor2.dumps(value)
    whole = Map(sent, len(sent))
    assert reader.cbor_is_map(ctypes.byref(whole)) == (depth(value) <= 6)
    for key, held in value.items():
        fits = isinstance(held, (bool, bytes, str)) or (isinstance(held, int) and 0 <= held < 2**32)
        if depth(value) <= 6:
            assert get(reader, whole, key, held) == (held if fits else "other")
    if depth(value) <= 6:
        assert get(reader, whole, "not in it at all", 1) == "other"


@given(MAPS, st.data())
def test_a_map_that_is_cut_short_or_followed_by_something_is_none(
    reader: ctypes.CDLL, value: dict[str, Any], data: st.DataObject
) -> None:
    sent = cbor2.dumps(value)
    cut = sent[: data.draw(st.integers(0, len(sent) - 1))]
    assert not reader.cbor_is_map(ctypes.byref(Map(cut, len(cut))))
    assert not reader.cbor_is_map(ctypes.byref(Map(sent + b"\0", len(sent) + 1)))
