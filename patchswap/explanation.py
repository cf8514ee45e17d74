"""Which kernel `patchswap.match` runs for given arguments, and why."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from patchswap import contract, ops
from patchswap.build import build_info
from patchswap.matching import prepare, weight_of_keys


@dataclass(frozen=True)
class Explanation:
    """What `match` would run.

    kernel: a value of its argument `method`, or "reference" for plain torch code. Where the samples of a batch go
    different ways, as their masks differ, the kernels in alphabetical order, as in "dense, pruned".

    reason: why, in a sentence; where samples differ, one for each sample.

    device: the device of the query, as in "cpu" or "cuda:0".

    instructions: on the CPU the instruction set, as `build_info` names it; None on other devices.
    """

    kernel: str
    reason: str
    device: str
    instructions: str | None

    def __str__(self) -> str:
        machine = self.device if self.instructions is None else f"{self.device} ({self.instructions})"
        return f"{self.kernel} on {machine}: {self.reason}"


def explain(
    query: Tensor,
    key: Tensor,
    *,
    patch_size: int = 3,
    padding: int = 0,
    padding_mode: str = "zeros",
    query_mask: Tensor | None = None,
    key_mask: Tensor | None = None,
    topk: int = 1,
    precision: str = "exact",
    method: str = "auto",
    metric: str = "ncc",
    key_weight: Tensor | None = None,
) -> Explanation:
    """Tell which kernel `match` runs for these arguments, and why, without running it.

    With the environment variable PATCHSWAP_LOG=1 each call of `match` writes the same to stderr, a line for each sample
    on the CPU. Features are not looked at: a pruned search that turns out not to pay goes over to the dense one.

    Args:
        query, key: as for `match`, and so are all other arguments.

    Raises:
        ValueError, TypeError, RuntimeError: as `match`, but values that are not finite pass.
    """
    query, key, query_mask, key_mask = prepare(
        "match", query, key, query_mask, key_mask, patch_size, padding, padding_mode
    )
    arguments = (patch_size, topk, precision, method, metric, weight_of_keys(key_weight, key))
    contract.check_match(query, key, query_mask, key_mask, *arguments)
    lines = ops.explain(query, key, query_mask, key_mask, *arguments).splitlines()
    choices = [tuple(line.split("\t")) for line in lines]
    if not choices:
        kernel, reason = "none", "the batch is empty"
    elif len(set(choices)) == 1:
        kernel, reason = choices[0]
    else:
        kernel = ", ".join(sorted({kernel for kernel, _ in choices}))
        reason = "; ".join(f"sample {number}: {kernel}: {reason}" for number, (kernel, reason) in enumerate(choices))
    is_cpu = query.device.type == "cpu"
    return Explanation(kernel, reason, str(query.device), str(build_info()["cpu_kernel"]) if is_cpu else None)
