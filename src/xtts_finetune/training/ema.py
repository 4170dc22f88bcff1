"""The exponential moving average (EMA) of the weights, which is evaluated beside them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class Ema:
    """Of what is trained, after every step: decay × the average + (1 - decay) × the weights.

    It begins as the weights that the phase begins with, and follows them about 1 / (1 - decay) steps behind
    (Polyak and Juditsky 1992, Acceleration of Stochastic Approximation by Averaging; torch/optim/swa_utils.py).

    Attributes:
        tensors: the average, in the order of the parameters.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], decay: float) -> None:
        self.tensors: list[Tensor] = [parameter.detach().clone() for parameter in parameters]
        self._parameters = list(parameters)
        self._follow = get_ema_multi_avg_fn(decay)

    @property
    def bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors)

    def update(self) -> None:
        """After a step. Waits for nothing, and can be recorded."""
        self._follow(self.tensors, self._parameters, 0)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """The network has the average in place of its weights meanwhile; nothing is copied."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def _exchange(self) -> None:
        for index, parameter in enumerate(self._parameters):
            parameter.data, self.tensors[index] = self.tensors[index], parameter.data
