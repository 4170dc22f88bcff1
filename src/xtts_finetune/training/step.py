"""One optimiser step, which waits for nothing: all it finds out stays on the device."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from xtts_finetune.core.phase_params import PhaseParams
from xtts_finetune.model.device import tf32
from xtts_finetune.model.forward import Settings
from xtts_finetune.model.xtts import GPT, TorchMelSpectrogram
from xtts_finetune.training.ema import Ema
from xtts_finetune.training.graphs import Graphs, Once
from xtts_finetune.training.half import HalfWeights
from xtts_finetune.training.loss import losses
from xtts_finetune.training.optim import set_lr, update
from xtts_finetune.training.packing import MicroBatch
from xtts_finetune.training.team import Team

MEL, TEXT, NORM = range(3)  # of a step's figures
ALIGNED = 64  # numbers: where a gradient may begin in memory, for kernels that read many at once


class Step:
    """Forward, backward, clipping and the update, as a function of micro-batches.

    Each process of a team has its part of the micro-batches; all take the same step. A step whose loss or gradient is
    not finite changes no weight: it is left out on the device.

    Attributes:
        ema: the weights' moving average, if the phase has one.
    """

    def __init__(
        self,
        gpt: GPT,
        conditioning_mel: TorchMelSpectrogram,
        optimizer: torch.optim.Optimizer,
        phase: PhaseParams,
        team: Team,
    ) -> None:
        self._gpt = gpt
        self._conditioning_mel = conditioning_mel
        self._optimizer = optimizer
        self._phase = phase
        self._team = team
        self._parameters = [parameter for parameter in gpt.parameters() if parameter.requires_grad]
        self.ema = None if phase.ema is None else Ema(self._parameters, phase.ema)
        self._device = gpt.mel_head.weight.device
        self._settings = Settings(phase.attention_dropout, phase.gradient_checkpointing)
        self._sums = torch.zeros(2, dtype=torch.float64, device=self._device)
        self._figures = torch.zeros(3, dtype=torch.float64, device=self._device)
        self._gradient = _in_one_piece(self._parameters) if team.size > 1 else None
        self._half = HalfWeights(gpt) if phase.precision == "bf16" else None
        is_recorded = is_padding_free(self._device, phase) and not phase.gradient_checkpointing
        self._graphs = Graphs(self._backward) if is_recorded else None
        self._update = Once(self._finish) if is_recorded and isinstance(optimizer, torch.optim.AdamW) else self._finish

    def __call__(self, micros: list[MicroBatch], lr: float, seed: int, may_update: Callable[[], None]) -> Tensor:
        """Take a step.

        Args:
            micros: in pinned memory where there is a GPU.
            seed: of its dropout.
            may_update: is called before the weights change, when all else of the step has begun.

        Returns:
            (3,) float64 on the device: summed Mel CE and Text CE, norm of the gradient before clipping; of the whole
            step. Valid until the next call.

        Raises:
            PeerLost: another process of the team takes no part.
        """
        torch.manual_seed(seed)
        self._sums.zero_()
        backward = self._graphs or self._backward
        for number, micro in enumerate(micros):
            self._sums += backward(micro, number == 0)
        if self._gradient is not None:
            self._team.add_up(self._gradient, self._sums)
        may_update()
        set_lr(self._optimizer, lr)
        self._update()
        return self._figures

    def _backward(self, micro: MicroBatch, is_first: bool) -> Tensor:
        """Add the gradient of a micro-batch's part of the loss; its (2,) summed Mel CE and Text CE."""
        micro = micro.to(self._device)
        if self._half is None:
            with tf32(self._phase.precision == "tf32"):
                return self._differentiated(micro)
        if is_first:
            self._half.refresh()
        with self._half.in_use():
            sums = self._differentiated(micro)
        self._half.gather(is_first)
        return sums

    def _differentiated(self, micro: MicroBatch) -> Tensor:
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._half is not None):
            sums = losses(self._gpt, self._conditioning_mel, micro, self._settings)
        (sums * micro.weights).sum().backward()
        return sums.detach()

    def _finish(self) -> None:
        """Clip the gradients, update the weights unless something is not finite; their average follows."""
        gradients = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        is_finite = torch.isfinite(norm + self._sums.sum())
        update(self._optimizer, is_finite, norm / self._phase.grad_clip)
        if self.ema is not None:
            self.ema.update()
        self._figures.copy_(torch.cat([self._sums, norm.double()[None]]))
        if self._half is None:
            self._optimizer.zero_grad(set_to_none=self._gradient is None)


def _in_one_piece(parameters: list[nn.Parameter]) -> Tensor:
    """Let all gradients lie in one flat memory, so that processes add them up at once."""
    sizes = [parameter.numel() + -parameter.numel() % ALIGNED for parameter in parameters]
    gradient = torch.zeros(sum(sizes), device=parameters[0].device)
    for parameter, part in zip(parameters, gradient.split(sizes), strict=True):
        parameter.grad = part[: parameter.numel()].view_as(parameter)
    return gradient


def is_padding_free(device: torch.device, phase: PhaseParams) -> bool:
    """Whether the step is what torch's variable-length attention takes: on an Ampere or later, bf16, without dropout.

    Ampere is what flash attention needs.
    """
    if device.type != "cuda" or phase.precision != "bf16" or phase.attention_dropout:
        return False
    return torch.backends.cuda.is_flash_attention_available() and torch.cuda.get_device_capability(device) >= (8, 0)
