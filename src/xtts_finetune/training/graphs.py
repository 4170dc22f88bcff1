"""CUDA graphs: what was computed in the same shapes before is one launch instead of thousands."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from xtts_finetune.training.packing import MicroBatch

Shape = tuple[object, ...]
MOST = 256  # shapes of micro-batches that are kept as graphs


@dataclass(frozen=True, eq=False)
class _Recorded:
    graph: torch.cuda.CUDAGraph
    inputs: MicroBatch
    sums: Tensor


class Graphs:
    """Gradients of micro-batches, each computed as it is when its shape comes first, and then recorded.

    All memory that outlives a call must be the same from one to the next: weights, their EMA, gradients, moments.
    """

    def __init__(self, backward: Callable[[MicroBatch, bool], Tensor]) -> None:
        self._backward = backward
        self._seen: set[Shape] = set()
        self._recorded: dict[Shape, _Recorded] = {}
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, micro: MicroBatch, is_first: bool) -> Tensor:
        """What `backward` gives for a micro-batch in pinned memory; valid until the next call."""
        shape = (is_first, micro.packed.longest, *(tuple(tensor.shape) for tensor in micro.tensors().values()))
        recorded = self._recorded.get(shape)
        if recorded is None and (shape not in self._seen or len(self._recorded) == MOST or not _has_room()):
            self._seen.add(shape)
            return self._backward(micro, is_first)
        if recorded is None:
            recorded = self._recorded[shape] = self._record(micro, is_first)
        else:
            theirs = micro.tensors()
            for name, tensor in recorded.inputs.tensors().items():
                tensor.copy_(theirs[name], non_blocking=True)
        recorded.graph.replay()
        return recorded.sums

    def _record(self, micro: MicroBatch, is_first: bool) -> _Recorded:
        graph, inputs = torch.cuda.CUDAGraph(), micro.to(torch.device("cuda"))
        with _recording(graph, self._pool):
            sums = self._backward(inputs, is_first)
        return _Recorded(graph, inputs, sums)


class Once:
    """A function without arguments: its first call makes what it keeps, e.g. an optimiser's moments; then recorded."""

    def __init__(self, function: Callable[[], None]) -> None:
        self._function = function
        self._has_run = False
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self) -> None:
        if not self._has_run:
            self._has_run = True
            self._function()
            return
        if self._graph is None:
            self._graph = torch.cuda.CUDAGraph()
            with _recording(self._graph, None):
                self._function()
        self._graph.replay()


def _has_room() -> bool:
    """Whether activations fit a second time: what graphs compute in is not shared with what is computed as it is."""
    activations = torch.cuda.max_memory_allocated() - torch.cuda.memory_allocated()
    return torch.cuda.mem_get_info()[0] > activations


def _recording(graph: torch.cuda.CUDAGraph, pool: Any) -> torch.cuda.graph:
    """Other threads go on meanwhile: they make the next batch, and write a state."""
    return torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local")
