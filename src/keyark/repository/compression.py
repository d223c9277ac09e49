"""Codecs of blocks. Every block says which codec it used, so changing the choice never touches older data."""

from __future__ import annotations

import threading
import zlib
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from keyark.errors import DamagedError, UsageError


class Codec(IntEnum):
    """Numbers of codecs in a block's first byte."""

    NONE = 0
    ZSTD = 1  # RFC 8878
    GZIP = 2  # RFC 1952
    BZIP2 = 3
    LZMA = 4  # .xz


_LEVELS = {"zstd": (-7, 22, 3), "gzip": (0, 9, 6), "bzip2": (1, 9, 9), "lzma": (0, 9, 6)}
_CODECS = {"none": Codec.NONE, "zstd": Codec.ZSTD, "gzip": Codec.GZIP, "bzip2": Codec.BZIP2, "lzma": Codec.LZMA}
_PROBE = 128 << 10  # bytes of a block that `auto` tries first
_WORTH = 0.97  # stored as it is when compression saves less than 3%


@dataclass(frozen=True, slots=True)
class Compression:
    """A codec, its level, and whether each block is probed first (``auto``)."""

    codec: Codec
    level: int = 0
    probe: bool = False

    def compress(self, data: bytes) -> tuple[Codec, bytes]:
        """Compress one block; the codec in the answer is NONE where compressing did not pay."""
        if self.codec is Codec.NONE or (self.probe and not self._pays(data)):
            return Codec.NONE, data
        packed = self._run(data)
        return (self.codec, packed) if len(packed) < len(data) else (Codec.NONE, data)

    def _pays(self, data: bytes) -> bool:
        if len(data) <= _PROBE:
            return True
        middle = (len(data) - _PROBE) // 2
        sample = data[middle : middle + _PROBE]
        return len(_zstd_compressor(1).compress(sample)) < _WORTH * len(sample)

    def _run(self, data: bytes) -> bytes:
        if self.codec is Codec.ZSTD:
            return bytes(_zstd_compressor(self.level).compress(data))
        if self.codec is Codec.GZIP:
            return zlib.compress(data, self.level, wbits=31)
        if self.codec is Codec.BZIP2:
            import bz2

            return bz2.compress(data, self.level)
        import lzma

        return lzma.compress(data, preset=self.level)


def parse_compression(text: str) -> Compression:
    """Read ``codec[:level]``, ``none`` or ``auto``; UsageError says what is possible."""
    name, _, level_text = text.partition(":")
    if name == "auto" and not level_text:
        return Compression(Codec.ZSTD, 3, probe=True)
    if name == "none" and not level_text:
        return Compression(Codec.NONE)
    if name not in _LEVELS:
        raise UsageError(
            f"compression {text!r} is unknown; use zstd, gzip, bzip2, lzma (each with :LEVEL), none or auto"
        )
    low, high, default = _LEVELS[name]
    try:
        level = int(level_text) if level_text else default
    except ValueError as e:
        raise UsageError(f"compression {text!r}: the level must be a number from {low} to {high}") from e
    if not low <= level <= high:
        raise UsageError(f"compression {text!r}: the level of {name} goes from {low} to {high}")
    return Compression(_CODECS[name], level)


_local = threading.local()


def _zstd_compressor(level: int) -> Any:
    """A compressor for this thread: contexts are reused, and must not be shared."""
    cache: dict[int, Any] = _local.__dict__.setdefault("compressors", {})
    if level not in cache:
        import zstandard

        cache[level] = zstandard.ZstdCompressor(level=level, write_checksum=False, write_content_size=True)
    return cache[level]


def decompress(codec: int, data: bytes, length: int, what: str) -> bytes:
    """Decompress exactly ``length`` bytes; more or fewer is DamagedError, and no more than that is ever allocated."""
    if codec == Codec.NONE:
        result = data
    else:
        try:
            result = _decompress(Codec(codec), data, length)
        except ValueError as e:
            raise DamagedError(f"{what}: codec {codec} is unknown to this version of Keyark") from e
        except Exception as e:
            raise DamagedError(f"{what}: cannot be decompressed ({e})") from e
    if len(result) != length:
        raise DamagedError(f"{what}: decompresses to {len(result)} bytes instead of {length}")
    return result


def _decompress(codec: Codec, data: bytes, length: int) -> bytes:
    if codec is Codec.ZSTD:
        import zstandard

        if zstandard.frame_content_size(data) != length:
            raise DamagedError("its frame announces another length")
        decompressor = _local.__dict__.get("decompressor")
        if decompressor is None:
            decompressor = _local.__dict__["decompressor"] = zstandard.ZstdDecompressor()
        return bytes(decompressor.decompress(data, max_output_size=length))
    if codec is Codec.GZIP:
        return zlib.decompressobj(wbits=31).decompress(data, length + 1)
    if codec is Codec.BZIP2:
        import bz2

        return bz2.BZ2Decompressor().decompress(data, length + 1)
    import lzma

    return lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=256 << 20).decompress(data, length + 1)
