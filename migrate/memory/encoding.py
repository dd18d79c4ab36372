"""The encodings of a batch's bytes, raw or compressed by zstd, and the choice between them.

zstd is in the standard library from Python 3.14 on (`compression.zstd`), and before that in the
package `zstandard`. Level 1 is used: it compresses memory almost as well as higher levels do, and
several times faster.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from checkpoint.errors import ImageError

RAW, ZSTD = "raw", "zstd"
LEVEL = 1
#: The largest window that a decompressor accepts, as a power of two of bytes (4 MiB). It allocates
#: as much memory as the compressed data names for the window, by default up to 128 MiB. This bound
#: is enough, because a batch is no larger, and level 1 uses a smaller window.
WINDOW_LOG = 22

Compress = Callable[[memoryview], bytes]
#: Decompresses a payload to at most the given number of bytes, or to one more if it holds more.
Decompress = Callable[[bytes | bytearray | memoryview, int], bytes]


def _find_zstd() -> tuple[Compress, Decompress] | None:
    try:
        from compression import zstd  # type: ignore[import-not-found,unused-ignore]  # noqa: PLC0415
    except ImportError:
        pass
    else:
        bounded = {zstd.DecompressionParameter.window_log_max: WINDOW_LOG}
        return (
            lambda data: bytes(zstd.compress(data, LEVEL)),
            lambda data, limit: bytes(
                zstd.ZstdDecompressor(options=bounded).decompress(data, limit + 1)
            ),
        )
    try:
        import zstandard  # noqa: PLC0415  (one of the two is there, or none)
    except ImportError:
        return None
    return (
        lambda data: zstandard.ZstdCompressor(level=LEVEL).compress(data),
        lambda data, limit: (
            zstandard.ZstdDecompressor(max_window_size=1 << WINDOW_LOG)
            .stream_reader(data)
            .read(limit + 1)
        ),
    )


_ZSTD = _find_zstd()
#: The encodings that this host can write and read.
AVAILABLE: tuple[str, ...] = (RAW, ZSTD) if _ZSTD else (RAW,)


def encode(data: memoryview, encoding: str) -> bytes | memoryview:
    """Return `data` in `encoding`, which must be one of AVAILABLE."""
    if encoding == RAW:
        return data
    assert encoding == ZSTD
    assert _ZSTD is not None
    return _ZSTD[0](data)


def decode(payload: bytes | bytearray | memoryview, encoding: str, size: int) -> memoryview:
    """Return the `size` bytes that a payload holds in an encoding.

    Raises ImageError when the payload is damaged, holds another number of bytes, or its encoding is
    not one of AVAILABLE. A payload that holds more is not decompressed beyond `size` bytes and one.
    """
    if encoding == ZSTD and _ZSTD is not None:
        try:
            data = memoryview(_ZSTD[1](payload, size))
        except Exception as error:  # each implementation has its own class of error
            raise ImageError(f"a batch of pages does not decompress: {error}") from error
    elif encoding == RAW:
        data = memoryview(payload)
    else:
        raise ImageError(f"pages come in an unknown encoding {encoding!r}")
    if len(data) != size:
        raise ImageError(
            f"a batch of pages has {len(data) - size:+} bytes beside the {size} it should have"
        )
    return data


#: One batch in so many is sent in another encoding than the current one, to see how that does now.
PROBE_EVERY = 32
#: Another encoding replaces the current one only if it costs less than this share of the current
#: cost, so that noise does not make the choice waver.
BETTER = 0.85
#: The weight of the newest batch in the running means.
NEWEST = 0.3


class EncodingChoice:
    """The choice of an encoding for each batch, by a running mean of the seconds that a byte takes.

    The time of a batch is all of it: encoding, waiting for the link, sending.
    """

    def __init__(self, available: Sequence[str]) -> None:
        self._available = tuple(available)
        self._cost: dict[str, float] = {}
        self._batches = 0
        self.current = self._available[0]

    def next(self) -> str:
        """Return the encoding for the next batch."""
        self._batches += 1
        for encoding in self._available:
            if encoding not in self._cost:
                return encoding
        if self._batches % PROBE_EVERY == 0:
            others = [encoding for encoding in self._available if encoding != self.current]
            if others:
                return others[self._batches // PROBE_EVERY % len(others)]
        return self.current

    def took(self, encoding: str, size_bytes: int, seconds: float) -> None:
        """Account a batch with `size_bytes` of pages, which took so many seconds in all."""
        cost = seconds / max(1, size_bytes)
        before = self._cost.get(encoding, cost)
        self._cost[encoding] = before + (cost - before) * NEWEST
        best = min(self._cost, key=self._cost.__getitem__)
        if self._cost[best] < self._cost.get(self.current, float("inf")) * BETTER:
            self.current = best
