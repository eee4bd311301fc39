"""How fast all cores together read memory, and how much a decode step has to read."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

import numpy as np
import openvino as ov

from appliance.model_dir import MODEL_BIN, MODEL_XML

_BUFFER_BYTES = 512 << 20  # far above any last-level cache
_READS = 3


class MemoryReader:
    """Reads one large buffer with a thread per core; a context manager that frees it.

    Each thread looks for the greatest of its part's 32-bit numbers, which numpy does in vectors and
    without the GIL: as much work per byte as a read can be checked with.
    """

    def __enter__(self) -> MemoryReader:
        num_threads = len(os.sched_getaffinity(0))
        self._pool = ThreadPoolExecutor(num_threads)
        buffer = np.ones(_BUFFER_BYTES // 4, dtype=np.int32)
        self._parts = np.array_split(buffer, num_threads)
        self.bytes_per_s()  # touches every page, wakes the threads
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._pool.shutdown()
        self._parts = []

    def bytes_per_s(self) -> float:
        """The best of a few reads: what memory can give, not what it gave in a bad moment."""
        seconds = []
        for _ in range(_READS):
            begun = time.perf_counter()
            list(self._pool.map(np.max, self._parts))
            seconds.append(time.perf_counter() - begun)
        return _BUFFER_BYTES / min(seconds)


def weight_bytes_per_token(model_dir: Path) -> int:
    """Bytes of the weights that one decode step reads: all, but one row of an embedding that is
    not the LM head as well."""
    model = ov.Core().read_model(model_dir / MODEL_XML)
    total = (model_dir / MODEL_BIN).stat().st_size
    return total - _bytes_only_looked_up(model)


def _bytes_only_looked_up(model: ov.Model) -> int:
    """Bytes of constants that nothing but a gather by token ids uses."""
    ids = next(p for p in model.get_parameters() if "input_ids" in p.output(0).get_names())
    table = _table_of(_first_gather(ids))
    while table.get_type_name() != "Constant":
        if len(table.output(0).get_target_inputs()) > 1:
            return 0  # tied: the LM head reads all of it in every step
        if table.get_type_name() == "Multiply":
            scales = table.input_value(1).get_node()
            return _constant_bytes(table.input_value(0).get_node()) + _constant_bytes(scales)
        table = table.input_value(0).get_node()
    tied = len(table.output(0).get_target_inputs()) > 1
    return 0 if tied else _constant_bytes(table)


def _first_gather(ids: ov.Node) -> ov.Node:
    """The embedding: the first Gather that `input_ids` reach, behind conversions."""
    reached = [ids]
    for node in reached:
        for target in node.output(0).get_target_inputs():
            user = target.get_node()
            if user.get_type_name() == "Gather":
                return user
            if user.get_type_name() in ("Convert", "Reshape"):
                reached.append(user)
    raise ValueError("no embedding found: input_ids reach no Gather")


def _table_of(gather: ov.Node) -> ov.Node:
    return gather.input_value(0).get_node()


def _constant_bytes(node: ov.Node) -> int:
    """Of the constant that `node` is, or is converted from; 0 if it is shared with others."""
    while node.get_type_name() == "Convert":
        node = node.input_value(0).get_node()
    if node.get_type_name() != "Constant" or len(node.output(0).get_target_inputs()) > 1:
        return 0
    return int(node.output(0).get_element_type().size * np.prod(node.output(0).shape))
