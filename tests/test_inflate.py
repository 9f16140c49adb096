"""Content codings are undone in bounded steps, whatever way their bytes are cut."""

from __future__ import annotations

import gzip
import random
import zlib
from collections.abc import Callable
from typing import Any

import pytest

from ai_lib_trio.pipeline import inflate
from ai_lib_trio.pipeline.inflate import STEP_BYTES, Inflater
from ai_lib_trio.testing import every_split, random_splits


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


def brotli(data: bytes) -> bytes:
    return bytes(pytest.importorskip("brotli", reason="brotli is not installed").compress(data))


def zstd(data: bytes) -> bytes:
    library = inflate._zstd()
    if library is None:
        pytest.skip("no zstd is installed")
    return bytes(library.compress(data))


PACKERS: list[tuple[str, Callable[[bytes], bytes]]] = [
    ("gzip", gzip.compress),
    ("x-gzip", gzip.compress),
    ("deflate", zlib.compress),
    ("deflate", raw_deflate),
    ("br", brotli),
    ("zstd", zstd),
]
every_coding = pytest.mark.parametrize(("coding", "pack"), PACKERS, ids=["gzip", "x-gzip", "zlib", "raw", "br", "zstd"])


def inflated(coding: str, pieces: Any) -> list[bytes]:
    inflater = Inflater(coding)
    steps: list[bytes] = []
    for piece in pieces:
        inflater.feed(piece)
        while inflater.has_input:
            before = len(steps)
            steps.append(inflater.step())
            assert len(steps) - before == 1
            assert len(steps) < 100_000
    return steps


@every_coding
def test_a_body_comes_out_whole_however_it_is_cut(coding: str, pack: Callable[[bytes], bytes]) -> None:
    plain = '{"text": "日本 and more"}'.encode() * 3
    packed = pack(plain)
    for pieces in every_split(packed):
        assert b"".join(inflated(coding, pieces)) == plain
    noise = random.Random(1).randbytes(300_000)
    for pieces in random_splits(pack(noise), seed=1, ways=5):
        assert b"".join(inflated(coding, pieces)) == noise


@every_coding
def test_a_small_body_that_inflates_to_a_huge_one_comes_in_bounded_steps(
    coding: str, pack: Callable[[bytes], bytes]
) -> None:
    steps = inflated(coding, [pack(b" " * 20_000_000)])
    assert sum(map(len, steps)) == 20_000_000
    assert max(map(len, steps)) <= STEP_BYTES


@pytest.mark.parametrize(("coding", "pack"), [PACKERS[0], PACKERS[5]], ids=["gzip", "zstd"])
@pytest.mark.parametrize("size", [3, 200_000])
def test_members_that_follow_one_another_are_one_body(coding: str, pack: Callable[[bytes], bytes], size: int) -> None:
    first, second = random.Random(2).randbytes(size), random.Random(3).randbytes(size)
    whole = pack(first) + pack(second)
    assert b"".join(inflated(coding, [whole])) == first + second
    at = len(pack(first))
    assert b"".join(inflated(coding, [whole[:at], whole[at:]])) == first + second


@pytest.mark.parametrize("pack", [zlib.compress, raw_deflate])
def test_what_stands_behind_the_end_of_a_body_is_not_gathered(pack: Callable[[bytes], bytes]) -> None:
    inflater = Inflater("deflate")
    inflater.feed(pack(b"all of it"))
    assert inflater.step() == b"all of it"
    for _ in range(100):
        inflater.feed(b"x" * 1_000)
        assert inflater.step() == b""
        assert not inflater.has_input
    assert len(inflater._engine.whole.unused_data) <= 1_000


@every_coding
def test_a_broken_body_is_said_to_be(coding: str, pack: Callable[[bytes], bytes]) -> None:
    packed = bytearray(pack(random.Random(4).randbytes(1000)))
    packed[:12] = b"\xff\x15 not packed"
    with pytest.raises(zlib.error):
        inflated(coding, [bytes(packed)])


@every_coding
def test_what_can_be_undone_is_known_and_offered(coding: str, pack: Callable[[bytes], bytes]) -> None:
    pack(b"x")
    assert Inflater.knows(coding)
    assert coding in Inflater.accepted() or coding == "x-gzip"


def test_what_is_not_installed_is_neither_known_nor_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inflate, "_installed", lambda: ())
    assert Inflater.accepted() == "gzip, deflate"
    for coding in ("br", "zstd", "compress", "identity", ""):
        assert not Inflater.knows(coding)


def test_a_brotli_without_a_bound_on_its_output_is_as_good_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    class Old:
        class Decompressor:
            pass

    monkeypatch.setattr(inflate.importlib, "import_module", lambda name: Old)
    assert inflate._brotli() is None
