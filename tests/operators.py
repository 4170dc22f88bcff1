"""What code asks of the device, operator by operator, without one."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

# What torch.use_deterministic_algorithms lists as raising on CUDA, by the names of its operators.
REFUSED = {
    "adaptive_avg_pool2d_backward", "adaptive_avg_pool3d_backward", "adaptive_max_pool2d_backward",
    "avg_pool3d_backward",
    "max_pool3d_with_indices_backward", "fractional_max_pool2d_backward", "max_unpool2d", "max_unpool3d",
    "upsample_linear1d_backward", "upsample_bilinear2d_backward", "upsample_bicubic2d_backward",
    "upsample_trilinear3d_backward", "reflection_pad1d_backward", "reflection_pad2d_backward",
    "reflection_pad3d_backward", "replication_pad1d_backward", "replication_pad2d_backward",
    "replication_pad3d_backward", "nll_loss2d_forward", "nll_loss2d_backward", "_ctc_loss_backward",
    "_embedding_bag_per_sample_weights_backward", "put_", "histc", "kthvalue", "median", "grid_sampler_2d_backward",
    "grid_sampler_3d_backward", "cumsum", "cumsum_",
}  # fmt: skip
WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "unique_consecutive", "_unique2"}
# These only look at memory in another way: they launch nothing.
VIEWS = {
    "view", "detach", "t", "transpose", "_unsafe_view", "unsqueeze", "squeeze", "expand", "unbind", "split_with_sizes",
    "slice", "select", "permute", "alias", "as_strided", "split",
}  # fmt: skip


class Trace(TorchDispatchMode):
    """Counts the operators of what runs under it."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.__name__.partition(".")[0]
        by_mask = name in ("index", "index_put_") and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        is_integral = name.startswith("cumsum") and not args[0].is_floating_point()
        self.calls["nonzero" if by_mask else "cumsum of integers" if is_integral else name] += 1
        return func(*args, **(kwargs or {}))


def traced(function: Callable[[], object]) -> Counter[str]:
    with Trace() as trace:
        function()
    return trace.calls
