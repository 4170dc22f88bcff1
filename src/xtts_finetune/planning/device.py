"""What is to hold a training: a GPU, here or not, or this machine's processor."""

from dataclasses import dataclass

import psutil
import torch

from xtts_finetune.planning.memory import Memory

# What a device holds beside tensors: CUDA's context, its libraries and the workspaces of matrix products; of a process
# on a CPU, Python and all that is imported (0.8 GiB on Linux).
CONTEXT = {True: 512 << 20, False: 1 << 30}
SPARE = 0.1  # of the tensors at the peak: as far as the trace may be off, and what torch's allocator leaves in pieces


@dataclass(frozen=True)
class Device:
    """What is to hold a training.

    Attributes:
        bytes: of its memory that are free for it.
        name: in words.
    """

    on_gpu: bool
    bytes: int
    name: str

    def needed(self, memory: Memory) -> int:
        """Bytes that it must have for a training of that memory.

        A GPU: also for graphs. A CPU: also for what a save copies, which there lies in the same memory.
        """
        beside = memory.graphs if self.on_gpu else memory.state
        return int(memory.peak * (1 + SPARE)) + beside + CONTEXT[self.on_gpu]

    def fits(self, memory: Memory) -> bool:
        return self.needed(memory) <= self.bytes


def device_of(vram: int | None) -> Device:
    """A GPU of that memory; else the one that is here; else this machine's processor."""
    if vram is not None:
        return Device(True, vram, "a GPU")
    if torch.cuda.is_available():
        return Device(True, torch.cuda.mem_get_info()[1], torch.cuda.get_device_name())
    return Device(False, psutil.virtual_memory().total, "this machine's processor (of a GPU: --vram 8GiB)")
