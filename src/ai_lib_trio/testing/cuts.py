"""Ways to cut bytes: what a decoder must not notice. Imports the standard library alone."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

__all__ = ["every_split", "random_splits"]


def every_split(data: bytes) -> Iterator[list[bytes]]:
    """The whole, every cut into two pieces, and byte by byte: all places where one cut can hurt.

    That is `len(data) + 1` ways, so it is for short data; `random_splits` is for long.
    """
    yield [data]
    for place in range(1, len(data)):
        yield [data[:place], data[place:]]
    if len(data) > 2:
        yield [data[place : place + 1] for place in range(len(data))]


def random_splits(data: bytes, *, seed: int, ways: int = 3, most_pieces: int = 64) -> Iterator[list[bytes]]:
    """`ways` cuts at random places, into two to `most_pieces` pieces; the same seed gives the same cuts."""
    chance = random.Random(seed)
    for _ in range(ways):
        cuts = min(chance.randint(1, most_pieces - 1), max(0, len(data) - 1))
        places = [0, *sorted(chance.sample(range(1, len(data)), cuts)), len(data)] if cuts else [0, len(data)]
        yield [data[start:end] for start, end in itertools.pairwise(places)]
