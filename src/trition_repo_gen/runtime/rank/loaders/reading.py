"""Read a distributed checkpoint's tensors with several threads, from the file into pinned buffers and the model.

torch's reader (torch 2.11, distributed/checkpoint/filesystem.py, `FileSystemReader.read_data`) unpickles one tensor
after another into pageable memory and copies it from there: one thread makes all three copies.
"""

from __future__ import annotations

import io
import os
import pickle
import threading
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import Future as Submitted
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.planner import LoadItemType, LoadPlan
from torch.futures import Future

from . import upstream

_THREADS = 8
_PIECE_BYTES = 32 << 20
_LOCAL_HEADER_BYTES = 30
"""Of a file's header in a zip archive, before its name and its extra field, whose lengths are its last four bytes."""


@contextmanager
def by_threads() -> Iterator[None]:
    """Have torch read checkpoints with threads within this context."""

    def read_data(original: Callable[..., Any], reader: Any, plan: LoadPlan, planner: Any) -> Future[None]:
        found = [(item, _find(reader, item, planner)) for item in plan.items]
        rest = [item for item, place in found if place is None]
        if rest:
            original(reader, LoadPlan(rest), planner)
        _read([(item, place) for item, place in found if place is not None], planner)
        future: Future[None] = Future()
        future.set_result(None)
        return future

    with upstream.read_data_by(read_data):
        yield


@dataclass(frozen=True)
class _Place:
    """Where a stored tensor's bytes are, and which part of it this rank needs."""

    path: Path
    offset: int
    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: tuple[int, ...]
    lengths: tuple[int, ...]

    def pieces(self, target: Tensor) -> Iterator[tuple[_Place, Tensor]]:
        """Yield the needed part in pieces of the first dimension, each with its target."""
        if not self.shape:
            yield self, target
            return
        row_bytes = self.dtype.itemsize
        for size in self.shape[1:]:
            row_bytes *= size
        step = max(1, _PIECE_BYTES // max(1, row_bytes))
        for first in range(0, self.lengths[0], step):
            rows = min(step, self.lengths[0] - first)
            part = _Place(
                self.path,
                self.offset + (self.begin[0] + first) * row_bytes,
                self.dtype,
                (rows, *self.shape[1:]),
                (0, *self.begin[1:]),
                (rows, *self.lengths[1:]),
            )
            yield part, target[first : first + rows]


def _find(reader: Any, item: Any, planner: Any) -> _Place | None:
    """Return where the bytes are, or None where only torch itself can read them."""
    stored = reader.storage_data[item.storage_index]
    described = planner.metadata.state_dict_metadata.get(item.storage_index.fqn)
    if item.type == LoadItemType.BYTE_IO or stored.transform_descriptors or not _is_tensor(described):
        return None
    sizes = [c.sizes for c in described.chunks if tuple(c.offsets) == tuple(item.storage_index.offset or ())]
    path = Path(str(reader.fs.concat_path(reader.path, stored.relative_path)))
    if len(sizes) != 1 or not path.is_file():
        return None
    dtype = described.properties.dtype
    offset = _data_offset(path, stored.offset, stored.length, sizes[0].numel() * dtype.itemsize)
    if offset is None:
        return None
    return _Place(path, offset, dtype, tuple(sizes[0]), tuple(item.storage_offsets), tuple(item.lengths))


def _is_tensor(described: object) -> bool:
    return isinstance(described, TensorStorageMetadata)


def _data_offset(path: Path, offset: int, length: int, size: int) -> int | None:
    """Return where in the file the bytes of a saved tensor begin: torch.save's archive keeps them uncompressed.

    Args:
        path: the file.
        offset: where in it the archive begins.
        length: of the archive.
        size: bytes that the tensor has. An archive with more or fewer holds a view, and is left to torch.
    """
    with path.open("rb") as file:
        try:
            archive = zipfile.ZipFile(_Window(file, offset, length))
        except zipfile.BadZipFile:
            return None
        data = [entry for entry in archive.infolist() if entry.filename.rpartition("/data/")[2] == "0"]
        order = [entry for entry in archive.infolist() if entry.filename.endswith("/byteorder")]
        if len(data) != 1 or data[0].compress_type != zipfile.ZIP_STORED or data[0].file_size != size:
            return None
        if any(archive.read(entry) != b"little" for entry in order) or not _is_plain(archive):
            return None
        header = offset + data[0].header_offset
        file.seek(header)
        start = file.read(_LOCAL_HEADER_BYTES)
        return header + len(start) + int.from_bytes(start[26:28], "little") + int.from_bytes(start[28:30], "little")


def _is_plain(archive: zipfile.ZipFile) -> bool:
    """Return whether the archive holds a tensor whose elements lie in order from the first byte on."""
    for entry in archive.infolist():
        if entry.filename.endswith("/data.pkl"):
            try:
                _, offset, shape, strides, *_ = _Arguments(io.BytesIO(archive.read(entry))).load()
            except (pickle.UnpicklingError, TypeError, ValueError):
                return False
            expected = 1
            for length, stride in reversed(list(zip(shape, strides, strict=True))):
                if length != 1 and stride != expected:
                    return False
                expected *= length
            return bool(offset == 0)
    return False


class _Arguments(pickle.Unpickler):
    """Reads what a pickled tensor is rebuilt with, and rebuilds nothing."""

    def find_class(self, module: str, name: str) -> Any:
        del module, name
        return lambda *arguments: arguments

    def persistent_load(self, identity: Any) -> Any:
        return identity


class _Window:
    """A part of a file, as a file."""

    def __init__(self, file: Any, offset: int, length: int):
        self._file, self._offset, self._length, self._at = file, offset, length, 0

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, position: int, whence: int = os.SEEK_SET) -> int:
        self._at = position + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._length}[whence]
        return self._at

    def read(self, size: int = -1) -> bytes:
        left = self._length - self._at
        self._file.seek(self._offset + self._at)
        data: bytes = self._file.read(left if size < 0 else min(size, left))
        self._at += len(data)
        return data


def _read(items: list[tuple[Any, _Place]], planner: Any) -> None:
    """Read all items in the order of the files, and commit each once it is complete."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()  # the threads' streams do not wait for what initialised the weights
    items = sorted(items, key=lambda entry: (entry[1].path, entry[1].offset))
    copier = _Copier()
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="checkpoint") as pool:
        try:
            under_way: list[tuple[Any, Tensor, list[Submitted[None]]]] = []
            for item, place in items:
                target = planner.resolve_tensor(item).detach()
                if tuple(target.shape) != place.lengths:
                    raise RuntimeError(f"{item.dest_index.fqn} is {tuple(target.shape)}, not {place.lengths}.")
                parts = [pool.submit(copier.copy, piece, part) for piece, part in place.pieces(target)]
                under_way.append((item, target, parts))
            for item, target, parts in under_way:
                for part in parts:
                    part.result()
                planner.commit_tensor(item, target)
        finally:
            pool.shutdown(cancel_futures=True)
            copier.close()


class _Copier:
    """Copies pieces on any thread; each thread has its own buffer and file descriptors."""

    def __init__(self) -> None:
        self._device = torch.cuda.current_device() if torch.cuda.is_available() else None
        self._mine = threading.local()
        self._files: list[int] = []

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def copy(self, piece: _Place, target: Tensor) -> None:
        """Read a piece and copy the needed part of it to `target`."""
        size = piece.dtype.itemsize
        for length in piece.shape:
            size *= length
        buffer = self._buffer(size)
        _read_fully(self._file(piece.path), memoryview(buffer.numpy()), piece.offset)
        source = buffer.view(piece.dtype).view(piece.shape)
        for dimension, (first, length) in enumerate(zip(piece.begin, piece.lengths, strict=True)):
            source = source.narrow(dimension, first, length)
        if self._device is None:
            target.copy_(source)
            return
        with torch.cuda.stream(self._mine.stream):
            target.copy_(source, non_blocking=True)
        self._mine.stream.synchronize()

    def close(self) -> None:
        """Close the files."""
        for file in self._files:
            os.close(file)

    def _buffer(self, size: int) -> Tensor:
        """Return this thread's buffer, uint8[size]."""
        buffer: Tensor | None = getattr(self._mine, "buffer", None)
        if buffer is None or buffer.numel() < size:
            if self._device is not None:
                torch.cuda.set_device(self._device)
                self._mine.stream = torch.cuda.Stream()
            largest = max(size, _PIECE_BYTES if self._device is not None else 0)
            buffer = torch.empty(largest, dtype=torch.uint8, pin_memory=self._device is not None)
            self._mine.buffer = buffer
        return buffer[:size]

    def _file(self, path: Path) -> int:
        files: dict[Path, int] = self._mine.__dict__.setdefault("files", {})
        if path not in files:
            files[path] = os.open(path, os.O_RDONLY)
            self._files.append(files[path])
        return files[path]


def _read_fully(file: int, into: memoryview, offset: int) -> None:
    while into:
        count = os.preadv(file, [into], offset)
        if not count:
            raise EOFError("A file of the checkpoint ends before its last tensor does.")
        into, offset = into[count:], offset + count
