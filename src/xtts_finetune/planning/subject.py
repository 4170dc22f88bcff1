"""What a plan is of: a training by these parameters, of this network, on that device."""

from dataclasses import dataclass
from typing import Self

from xtts_finetune.core.layout import PHASES, PhaseName, Workspace
from xtts_finetune.core.params import Params
from xtts_finetune.planning.choices import Choices, Traces
from xtts_finetune.planning.device import Device, device_of
from xtts_finetune.planning.longest import Longest
from xtts_finetune.planning.network import Network, network_of


@dataclass(frozen=True, eq=False)
class Subject:
    """A training that is planned."""

    workspace: Workspace
    params: Params
    network: Network
    device: Device
    clips: Longest

    @classmethod
    def of(cls, workspace: Workspace, params: Params, vram: int | None) -> Self:
        """Of a training here, with what is known of its base and its clips.

        Args:
            vram: as of `device_of`.

        Raises:
            UserError: the base's files or what `prepare` left cannot be used.
        """
        network, clips = network_of(workspace, params.base), Longest.of(workspace, params)
        return cls(workspace, params, network, device_of(vram), clips)

    def choices(self, name: PhaseName) -> Choices:
        """Of a phase."""
        [other] = (self.params.phase(each) for each in PHASES if each != name)
        traces = Traces(self.network, self.params.phase(name), other, self.device.on_gpu, self.clips)
        return Choices(traces, self.device, self.params.launch.processes * self.params.launch.nodes)
