"""The folder of a sweep: one file for every chunk, what they were computed from, and what is left at the end."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from ebmsim.design import Sweep
from ebmsim.errors import EbmsimError, Problem, SpecError
from ebmsim.estimation import package_version
from ebmsim.prepared import named_hardware
from ebmsim.spec.extends import hardware_document
from ebmsim.spec.library import find

PROVENANCE = "provenance.json"


def encoded(columns: dict[str, Any], form: str) -> bytes:
    """Columns as the bytes of a file: the same bytes wherever they are written. Raises EbmsimError without pyarrow."""
    if form == "csv":
        cells = [_texts(values) for values in columns.values()]
        lines = [",".join(map(_quoted, columns)), *map(",".join, zip(*cells, strict=True))]
        return ("\n".join(lines) + "\n").encode()
    pyarrow, parquet = _pyarrow()
    sink = io.BytesIO()
    parquet.write_table(pyarrow.table({name: np.ascontiguousarray(v) for name, v in columns.items()}), sink)
    return sink.getvalue()


def decoded(content: bytes, form: str) -> dict[str, Any]:
    """Columns from the bytes of a file."""
    if form == "parquet":
        pyarrow, parquet = _pyarrow()
        table = parquet.read_table(pyarrow.BufferReader(content))
        return {name: table[name].to_numpy() for name in table.column_names}
    names, *rows = csv.reader(io.StringIO(content.decode()))
    texts = zip(*rows, strict=True) if rows else [()] * len(names)
    return {name: _values(text) for name, text in zip(names, texts, strict=True)}


def _texts(values: Any) -> list[str]:
    kind = values.dtype.kind
    if kind == "f":
        return [repr(v)[:-2] if repr(v).endswith(".0") else repr(v) for v in values.tolist()]
    if kind == "b":
        return ["true" if v else "false" for v in values.tolist()]
    return [_quoted(str(v)) for v in values.tolist()]


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"' if set(text) & set(',"\n\r') else text


def _values(texts: tuple[str, ...]) -> Any:
    if set(texts) <= {"true", "false"}:
        return np.array([text == "true" for text in texts], dtype=np.bool_)
    try:
        return np.array([float(text) for text in texts])
    except ValueError:
        return np.array(texts)


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        message = "Parquet files need pyarrow: pip install 'ebmsim[parquet]', or use format: csv"
        raise EbmsimError(message) from None
    return pyarrow, parquet


class Folder:
    """The folder of one sweep. Files are written whole or not at all."""

    def __init__(self, path: Path, sweep: Sweep) -> None:
        self.path = path
        self.sweep = sweep

    def open(self, resume: bool) -> None:
        """Make the folder, or find it as this very sweep left it. Raises SpecError where it is something else's."""
        provenance = provenance_of(self.sweep)
        place = self.path / PROVENANCE
        if self.path.exists() and not self.path.is_dir():
            raise SpecError([Problem("expected a folder, found a file", str(self.path))])
        if place.is_file():
            self._same(place, provenance, resume)
        elif self.path.is_dir() and any(self.path.iterdir()):
            message = "the folder is not empty, and was not made by a sweep"
            raise SpecError([Problem(message, str(self.path), hint="name a new folder")])
        self.path.mkdir(parents=True, exist_ok=True)
        for stale in self.path.glob(".*.part"):
            stale.unlink(missing_ok=True)
        if not place.is_file():
            self.write(PROVENANCE, (json.dumps(provenance, indent=1) + "\n").encode())

    def _same(self, place: Path, provenance: dict[str, Any], resume: bool) -> None:
        try:
            before = json.loads(place.read_text(encoding="utf-8"))
        except ValueError:
            raise SpecError([Problem("not readable as JSON", str(place), hint="name a new folder")]) from None
        differs = [key for key in provenance if before.get(key) != provenance[key]]
        if differs:
            inputs = {i["file"]: i["sha256"] for i in before.get("inputs", [])}
            changed = [i["file"] for i in provenance["inputs"] if inputs.get(i["file"]) != i["sha256"]]
            what = ", ".join(changed) or ", ".join(differs)
            message = f"the folder holds another sweep: {what} differ" + ("s" if "," not in what else "")
            raise SpecError([Problem(message, str(self.path), hint="name a new folder")])
        if not resume:
            message = "the folder holds this sweep already"
            raise SpecError([Problem(message, str(self.path), hint="--resume goes on with it")])

    def name(self, chunk: int) -> str:
        """The file of a chunk."""
        return f"points-{chunk:08d}.{self.sweep.format}"

    def done(self) -> set[int]:
        """The chunks that are there."""
        return {int(path.stem.partition("-")[2]) for path in self.path.glob(f"points-*.{self.sweep.format}")}

    def write(self, name: str, content: bytes) -> None:
        """Write a file whole, or not at all. Raises EbmsimError where the disk refuses it."""
        part = self.path / f".{name}.part"
        try:
            with open(part, "wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(part, self.path / name)
        except OSError as error:
            part.unlink(missing_ok=True)
            reason = (error.strerror or str(error)).lower()
            raise EbmsimError(
                f"{self.path / name}: cannot write the file: {reason}\n"
                f"    {len(self.done())} chunks are kept; --resume goes on once there is room"
            ) from None

    def read(self, chunks: Iterable[int]) -> list[dict[str, Any]]:
        """The columns of chunks that are there."""
        return [decoded((self.path / self.name(i)).read_bytes(), self.sweep.format) for i in chunks]


def provenance_of(sweep: Sweep) -> dict[str, Any]:
    """What the results of a sweep follow from: version, and every file that it reads with its text."""
    files = {sweep.document.file: _text(sweep.document.file)}
    devices = [sweep.hardware, *_values_of(sweep, "hardware")]
    for name in dict.fromkeys(devices):
        document = hardware_document(name)
        for file in (document.file, *document.files.values()):
            files.setdefault(file, _text(file))
    profiles = [sweep.policy.software, *_values_of(sweep, "policy.software")]
    profiles += [named_hardware(name).software for name in dict.fromkeys(devices)]
    for name in dict.fromkeys(filter(None, profiles)):
        file = str(find("software", name))
        files.setdefault(file, _text(file))
    for name in dict.fromkeys([sweep.workload, *_values_of(sweep, "workload")]):
        file = str(find("workload", name))
        files.setdefault(file, _text(file))
    inputs = [
        {"file": os.path.basename(file), "sha256": hashlib.sha256(text.encode()).hexdigest(), "text": text}
        for file, text in files.items()
    ]
    return {"schema": 1, "version": package_version(), "sweep": sweep.name, "inputs": inputs}


def _values_of(sweep: Sweep, field: str) -> list[Any]:
    return [value for axis in sweep.axes if axis.field == field for value in axis.values]


def _text(file: str) -> str:
    return Path(file).read_text(encoding="utf-8")
