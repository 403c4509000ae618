"""Files that torch wrote, checked before they are read: whole, as they were written, and without code.

A ``.pt`` is a zip of records, each with its CRC-32, which torch writes and does not look at. One record is a pickle,
which may call anything; only what makes tensors is let through here, and only then is torch asked to read the file,
with ``weights_only=True``.
"""

from __future__ import annotations

import io
import pickletools
import zipfile
import zlib
from collections.abc import Set
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import IO, Any, Self

import torch

__all__ = ["FileRefused", "read_torch"]

#: What a file of tensors, numbers, texts, lists and dicts names.
_SAFE = frozenset(
    {
        "collections.OrderedDict",
        "torch.Size",
        "torch._utils._rebuild_parameter",
        "torch._utils._rebuild_tensor_v2",
        *(f"torch.{kind}Storage" for kind in ("BFloat16", "Bool", "Byte", "Char", "Double", "Float", "Half")),
        *(f"torch.{kind}Storage" for kind in ("Int", "Long", "Short", "ComplexFloat", "ComplexDouble")),
        *(f"torch.{name}" for name in ("bfloat16", "bool", "float16", "float32", "float64")),
        *(f"torch.{name}" for name in ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")),
        "torch.storage.TypedStorage",
        "torch.storage.UntypedStorage",
        # The numbers of a LongTensor's storage in files of before torch 1.6.
        "torch._utils._rebuild_tensor",
    }
)


class _Plain:
    """Stands in for a class of somebody else's: takes whatever it is made of, and keeps nothing."""

    def __new__(cls, *_args: object, **_named: object) -> Self:
        return super().__new__(cls)

    def __init__(self, *_args: object, **_named: object) -> None:
        pass

    def __setstate__(self, _state: object) -> None:
        pass


#: Names in the checkpoints of training programs, for which `_Plain` stands in. What is named is not even imported.
_PLAIN = {
    name: type(name, (_Plain,), {})
    for name in (
        "argparse.Namespace",
        *(f"numpy.{core}.multiarray.scalar" for core in ("core", "_core")),
        *(f"numpy.dtypes.{kind}DType" for kind in ("Float16", "Float32", "Float64", "Int32", "Int64", "Bool")),
        "numpy.dtype",
        *(f"pathlib.{kind}" for kind in ("Path", "PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")),
    )
}

#: What torch makes of such checkpoints by itself: sets, the bytes of numpy's numbers, and names of devices.
_BY_TORCH = frozenset({"__builtin__.set", "builtins.set", "_codecs.encode", "torch.device"})

#: Before 2.6 torch takes no stand-ins, and such files are refused.
_TAKES_STAND_INS = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 6)

_CHUNK = 1 << 20
_LOCAL_HEADER = 30
#: A file of before torch 1.6 is several pickles one after the other: a number, a version, the machine, what was saved
#: and the names of its storages.
_LEGACY_PICKLES = 5


class FileRefused(Exception):
    """What is wrong with a file, in words that follow its name.

    Attributes
    ----------
    is_code : bool
        It may be a good file, and names more than tensors and plain values.
    """

    is_code = False


def read_torch(path: Path, *, published: bool = False) -> Any:
    """Read what torch saved, onto the CPU.

    Parameters
    ----------
    path : Path
        The file.
    published : bool
        Take what training programs keep beside weights, too: settings in an ``argparse.Namespace``, numbers of numpy,
        paths. None of their classes is made or called; each becomes a plain value, or nothing.

    Raises
    ------
    FileNotFoundError
        If there is none.
    FileRefused
        If it is none of torch's, has changed since it was written, is packed, or holds more than tensors, numbers,
        texts, lists and dicts.
    """
    published = published and _TAKES_STAND_INS
    safe = _SAFE | (_PLAIN.keys() | _BY_TORCH if published else set())
    try:
        with path.open("rb") as file:
            if file.read(4) == b"PK\x03\x04":
                _check_zip(file, safe)
            else:
                file.seek(0)
                _refuse_code(file, _LEGACY_PICKLES, safe)
        with _standing_in(published):
            return torch.load(path, map_location="cpu", weights_only=True)
    except (FileNotFoundError, FileRefused):
        raise
    except Exception as error:  # torch raises whatever its parts do
        text = str(error).split(". ")[0].splitlines()
        raise FileRefused(f"not a file that can be read ({text[0] if text else type(error).__name__})") from error


def _check_zip(file: IO[bytes], safe: Set[str]) -> None:
    """Check the records of a zip against what its directory says of them, and the pickle among them."""
    with zipfile.ZipFile(file) as archive:
        records = archive.infolist()
        if len({record.filename for record in records}) < len(records):
            raise FileRefused("damaged: two of its records have one name")
        for record in records:
            if record.compress_type != zipfile.ZIP_STORED or record.compress_size != record.file_size:
                raise FileRefused(
                    f"packed: its record {record.filename} would take {record.file_size:,} bytes, and torch packs none"
                )
        # Records that share bytes would hold more than the file.
        if sum(record.file_size for record in records) > _size(file):
            raise FileRefused("damaged: its records hold more bytes than the file")
        for record in records:
            _check_record(file, archive, record)
        pickled = [record for record in records if record.filename.endswith("/data.pkl")]
        if len(pickled) != 1:
            raise FileRefused("no file of torch: it is a zip without one record data.pkl")
        _refuse_code(io.BytesIO(archive.read(pickled[0])), 1, safe)


def _check_record(file: IO[bytes], archive: zipfile.ZipFile, record: zipfile.ZipInfo) -> None:
    """Compare a record with its checksum."""
    found = 0
    try:
        with archive.open(record) as content:
            # The checksum is compared here, with what it belongs to.
            content._expected_crc = None  # type: ignore[attr-defined]
            while chunk := content.read(_CHUNK):
                found = zlib.crc32(chunk, found)
    except (zipfile.BadZipFile, EOFError, RuntimeError, NotImplementedError) as error:
        raise FileRefused(f"damaged: its record {record.filename} cannot be read ({error})") from error
    if found != record.CRC:
        file.seek(record.header_offset + 26)
        lengths = file.read(4)
        name, extra = (int.from_bytes(lengths[at : at + 2], "little") for at in (0, 2))
        start = record.header_offset + _LOCAL_HEADER + name + extra
        raise FileRefused(
            f"damaged: its record {record.filename}, bytes {start:,} to {start + record.file_size - 1:,}, has changed "
            f"since it was written (CRC-32 {found:08x}, not {record.CRC:08x})"
        )


def _refuse_code(file: IO[bytes], pickles: int, safe: Set[str]) -> None:
    """Refuse pickles that name anything but what makes tensors; none of it is imported."""
    for _ in range(pickles):
        texts: list[str] = []
        try:
            for operation, value, _place in pickletools.genops(file):
                if operation.name in ("GLOBAL", "INST"):
                    _refuse_name(str(value).replace(" ", ".", 1), safe)
                elif operation.name == "STACK_GLOBAL":
                    _refuse_name(".".join(texts[-2:]), safe)
                elif operation.name in ("EXT1", "EXT2", "EXT4"):
                    _refuse_name(f"extension {value}", safe)
                elif "UNICODE" in operation.name:
                    texts = [*texts[-1:], str(value)]
        except (ValueError, UnicodeDecodeError) as error:
            raise FileRefused(f"not a file that can be read ({error})") from error


def _refuse_name(name: str, safe: Set[str]) -> None:
    """Refuse a name that a pickle calls or makes an object of."""
    if name not in safe:
        refusal = FileRefused(f"it holds more than tensors: reading it as it is would call {name}")
        refusal.is_code = True
        raise refusal


def _standing_in(published: bool) -> AbstractContextManager[None]:
    """Let torch take `_Plain` for the names that it stands in for, while it reads a file."""
    if not published:
        return nullcontext()
    context: AbstractContextManager[None] = torch.serialization.safe_globals(
        [(stand_in, name) for name, stand_in in _PLAIN.items()]
    )
    return context


def _size(file: IO[bytes]) -> int:
    """Return the size of an open file."""
    return file.seek(0, io.SEEK_END)
