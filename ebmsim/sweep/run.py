"""A sweep run to its end: chunks evaluated one after another, by processes, or by a Dask cluster; the same bytes."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, wait
from dataclasses import dataclass
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any

from ebmsim.design import Sweep
from ebmsim.errors import EbmsimError, Problem, SpecError
from ebmsim.spec.library import load_sweep
from ebmsim.sweep.axes import layout
from ebmsim.sweep.check import check_sweep
from ebmsim.sweep.chunks import evaluate_chunk, merged
from ebmsim.sweep.store import Folder, encoded

# More points than this are asked for in earnest only.
MOST_POINTS = 10**9
# Chunks handed out ahead, for every worker; times that workers may die before a sweep is given up.
_AHEAD = 2
_DEATHS = 5

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Plan:
    """What a sweep will take. seconds, bytes: from a chunk in its middle that was tried."""

    points: int
    chunks: int
    cells: int
    seconds: float
    bytes: int


def plan(sweep: Sweep) -> Plan:
    """How many points, and about how long and how many bytes, from a chunk that is tried. Raises SpecError."""
    check_sweep(sweep)
    whole = layout(sweep)
    chunk_bytes(sweep, 0)  # with all that is done once: the next one tells what a further chunk takes
    start = time.perf_counter()
    size = len(chunk_bytes(sweep, whole.chunks // 2))
    seconds = time.perf_counter() - start
    return Plan(whole.points, whole.chunks, whole.cells, seconds * whole.chunks, size * whole.chunks)


def in_memory(file: str | Path) -> dict[str, Any]:
    """What a sweep keeps, as one array for every column; for sweeps that fit in memory.

    Raises SpecError for bad input.
    """
    sweep = load_sweep(file)
    check_sweep(sweep)
    parts = [evaluate_chunk(sweep, chunk) for chunk in range(layout(sweep).chunks)]
    return merged(sweep, parts)


def chunk_bytes(sweep: Sweep, chunk: int) -> bytes:
    """The file of one chunk. Raises SpecError."""
    return encoded(evaluate_chunk(sweep, chunk), sweep.format)


def run(
    sweep: Sweep,
    folder: str | Path,
    workers: int = 1,
    scheduler: str = "",
    resume: bool = False,
    many: bool = False,
    progress: Progress = lambda done, of: None,
) -> Path:
    """Run a sweep into a folder; the folder's `result` file where it keeps less than all. Returns the folder.

    workers: processes of this machine. scheduler: address of a Dask cluster, whose workers find the same files. resume:
    go on with a folder. many: more than 10^9 points are meant. Raises SpecError for bad input and for a folder of
    something else; EbmsimError where the disk is full or workers keep dying; what is done stays.
    """
    check_sweep(sweep)
    whole = layout(sweep)
    if whole.points > MOST_POINTS and not many:
        message = f"the sweep has {whole.points:.3g} points in {whole.chunks:.3g} files"
        raise SpecError([Problem(message, sweep.document.file, hint="--plan says what that takes; --yes runs it")])
    place = Folder(Path(folder), sweep)
    place.open(resume)
    done = place.done()
    count = len(done)
    todo = (i for i in range(whole.chunks) if i not in done)
    progress(count, whole.chunks)
    for chunk, content in _evaluated(sweep, todo, workers, scheduler):
        place.write(place.name(chunk), content)
        count += 1
        progress(count, whole.chunks)
    if sweep.keep.what != "all":
        place.write(f"result.{sweep.format}", encoded(merged(sweep, place.read(range(whole.chunks))), sweep.format))
    return place.path


def _evaluated(sweep: Sweep, todo: Iterator[int], workers: int, scheduler: str) -> Iterator[tuple[int, bytes]]:
    if scheduler:
        return _on_cluster(sweep, todo, scheduler)
    if workers > 1:
        return _by_processes(sweep, todo, workers)
    return ((chunk, chunk_bytes(sweep, chunk)) for chunk in todo)


def _by_processes(sweep: Sweep, todo: Iterator[int], workers: int) -> Iterator[tuple[int, bytes]]:
    """Chunks by processes. When one dies, all are started anew and what was in flight is done again."""
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    waiting: deque[int] = deque()
    for _ in range(_DEATHS):
        pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"))
        flying: dict[Future[bytes], int] = {}
        try:
            while True:
                waiting.extend(islice(todo, max(0, _AHEAD * workers - len(flying) - len(waiting))))
                while waiting and len(flying) < _AHEAD * workers:
                    flying[pool.submit(chunk_bytes, sweep, waiting[0])] = waiting[0]
                    waiting.popleft()
                if not flying:
                    return
                for future in wait(flying, return_when=FIRST_COMPLETED).done:
                    content = future.result()
                    yield flying.pop(future), content
        except BrokenExecutor:
            waiting.extend(flying.values())
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    raise EbmsimError("worker processes keep dying, as they do where memory is short; use fewer --workers")


def _on_cluster(sweep: Sweep, todo: Iterator[int], address: str) -> Iterator[tuple[int, bytes]]:
    """Chunks by the workers of a Dask cluster, which does again what a lost worker had."""
    try:
        distributed: Any = import_module("distributed")
    except ImportError:
        raise EbmsimError("--scheduler needs Dask: pip install 'ebmsim[dask]'") from None
    try:
        client = distributed.Client(address, timeout=20)
    except (OSError, ValueError, TimeoutError) as error:
        raise EbmsimError(f"no Dask scheduler answers at {address}: {error}") from None
    with client:
        ahead = max(1, _AHEAD * sum(client.nthreads().values()))
        shared = client.scatter(sweep, broadcast=True)

        def submit(chunk: int) -> Any:
            return client.submit(_numbered, shared, chunk, pure=False)

        flying = distributed.as_completed([submit(chunk) for chunk in islice(todo, ahead)])
        for future in flying:
            yield future.result()
            future.release()
            for chunk in islice(todo, 1):
                flying.add(submit(chunk))


def _numbered(sweep: Sweep, chunk: int) -> tuple[int, bytes]:
    return chunk, chunk_bytes(sweep, chunk)
