"""How the bytes of a batch travel: as they are, or compressed by zstd where both hosts have it.

zstd is in the standard library from Python 3.14 on (`compression.zstd`), before that in the package
`zstandard`. Level 1: memory compresses almost as well with it, and several times faster.
"""

from __future__ import annotations

from collections.abc import Callable

from checkpoint.errors import ImageError

RAW, ZSTD = "raw", "zstd"
LEVEL = 1
#: So much of what came before may be referred to. A decompressor sets memory aside for it: by itself up to 128 MiB.
#: A batch is no larger, and level 1 refers to less.
WINDOW_LOG = 22

Compress = Callable[[memoryview], bytes]
#: Gives at most so many bytes, plus one if there were more.
Decompress = Callable[[bytes | bytearray | memoryview, int], bytes]


def _find_zstd() -> tuple[Compress, Decompress] | None:
    try:
        from compression import zstd  # type: ignore[import-not-found,unused-ignore]
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
        import zstandard
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
#: What this host can write and read.
AVAILABLE: tuple[str, ...] = (RAW, ZSTD) if _ZSTD else (RAW,)


def encode(data: memoryview, encoding: str) -> bytes | memoryview:
    """The bytes to send."""
    if encoding == ZSTD and _ZSTD is not None:
        return _ZSTD[0](data)
    return data


def decode(payload: bytes | bytearray | memoryview, encoding: str, size: int) -> memoryview:
    """Exactly `size` bytes. Raises ImageError; a payload that swells beyond that is not unpacked any further."""
    if encoding == ZSTD and _ZSTD is not None:
        try:
            data = memoryview(_ZSTD[1](payload, size))
        except Exception as error:  # each implementation has an error of its own
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
