"""The score network's part of a training step as CUDA graphs: the GPU waits for Python once, not before each of a thousand kernels."""
from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

Network = Callable[..., Tensor]


class GraphedNetwork:
    """Takes a score network's place in training: records it, forward and backward, for the first inputs of a kind, and replays that later.

    A kind is the shapes and dtypes, what needs a gradient, and autocast. Training's segments and batches have one size, so that there is
    one. The same kernels run in the same order, so that nothing rounds otherwise. What a call gives, and its gradients, lie in memory that
    the next call of that kind overwrites: a step calls once.

    Args:
        estimator: the network, on a GPU, without dropout.
        forward: what runs in its place, with its parameters, such as the same one compiled.
        record: makes a module, told tensors such as it will be given, replay itself.
    """

    def __init__(self, estimator: nn.Module, forward: Network | None = None, *,
                 record: Callable[[nn.Module, tuple[Tensor, ...]], nn.Module] = torch.cuda.make_graphed_callables):
        self.estimator, self.forward, self.record = estimator, forward or estimator.forward, record
        # walking through the network for them would cost a millisecond of every step
        self.parameters = tuple(estimator.parameters())
        self.recorded: dict[tuple, nn.Module] = {}

    def __call__(self, *inputs: Tensor | None) -> Tensor:
        given = tuple(value for value in inputs if value is not None)
        needed = [value.requires_grad for value in (*given, *self.parameters)]
        if not (torch.is_grad_enabled() and any(needed)):
            return self.forward(*inputs)
        dtype = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else None
        kind = (dtype, *needed, *((value.shape, value.dtype) for value in given))
        if kind not in self.recorded:
            # recording runs on a stream of its own, and each later step would be warned that the parameters' gradients come from another
            torch.autograd.graph.set_warn_on_accumulate_grad_stream_mismatch(False)
            # what is recorded must hold all its steps, those too that autocast would have kept from before
            with torch.autocast("cuda", dtype=dtype, enabled=dtype is not None, cache_enabled=False):
                self.recorded[kind] = self.record(_Alone(self.estimator, self.forward), tuple(map(_like, given)))
        return self.recorded[kind](*given)


class _Alone(nn.Module):
    """The network in a module of its own: recording changes the module that it is told, and judging needs the network as it is."""

    def __init__(self, estimator: nn.Module, forward: Network):
        super().__init__()
        self.estimator, self.run = estimator, forward

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.run(*inputs)


def _like(value: Tensor) -> Tensor:
    """The same values in memory of their own, as a leaf."""
    return value.detach().clone().requires_grad_(value.requires_grad)


def training_network(estimator: nn.Module, *, compiled: bool, graphed: bool) -> Network | None:
    """What training runs in place of a score network: the same one compiled, as CUDA graphs, or both; None where it runs as it is."""
    # a function of its own: judging calls the network with every length there is, and each would be compiled anew
    forward = torch.compile(estimator.forward, dynamic=False) if compiled else None
    return GraphedNetwork(estimator, forward) if graphed else forward
