"""Merge a feature transform into the layer behind it, exactly, or say why that cannot be.

The arithmetic and the traps are told in norm_transform.py.

Source: NORM, arXiv 2305.13803, which merges into the fully connected layer alone; its code does not
merge at all.
"""

import copy
from collections.abc import Sequence

from torch import Tensor, nn

from bench.layers import GATConv, GCNConv, Linear, SAGEConv
from bench.norm_transform import FeatureTransform


def merge(
    transform: FeatureTransform, layers: Sequence[nn.Module], *, isolated_nodes: bool = True
) -> nn.Module:
    """Return the last of `layers` with the transform in front of them merged into it.

    Args:
        transform: in eval mode.
        layers: what stands behind it, in order: a Linear, GCNConv, SAGEConv or GATConv, and before
            it nothing but nn.Identity.
        isolated_nodes: whether a node without neighbour (and loop) may ever be asked for; matters
            to SAGE's aggregator `mean` alone.

    Raises:
        ValueError: it cannot be done exactly; the message says why.
    """
    *between, layer = layers
    for module in between:
        if not isinstance(module, nn.Identity):
            raise ValueError(
                f"{_a(module)} stands between the feature transform and the last layer, so that "
                "they are not one linear map; put it before the transform"
            )
    matrix, offset = transform.affine()
    if isinstance(layer, Linear):
        return _merged_linear(layer, matrix, offset)
    if isinstance(layer, SAGEConv):
        return _merged_sage(layer, matrix, offset, isolated_nodes)
    if not isinstance(layer, GCNConv | GATConv):
        raise ValueError(
            f"a feature transform cannot be merged into {_a(layer)}; "
            "known: GATConv, GCNConv, Linear, SAGEConv"
        )
    if offset.any():
        why = (
            "attention would see it"
            if isinstance(layer, GATConv)
            else "propagation with symmetric normalisation scales it by each node's degree"
        )
        raise ValueError(
            f"the feature transform adds a constant, and {why}: no bias of {_a(layer)} stands for "
            "it; use a transform without biases and batch norm (batch_norm: none)"
        )
    merged = copy.deepcopy(layer)
    merged.linear = _merged_linear(layer.linear, matrix, None)
    return merged


def _merged_sage(layer: SAGEConv, matrix: Tensor, offset: Tensor, isolated_nodes: bool) -> SAGEConv:
    if layer.own is not None and isolated_nodes and offset.any():
        raise ValueError(
            "the feature transform adds a constant, which a node without neighbours does not get "
            "from SAGE's aggregator 'mean' while the others do; use the aggregator 'gcn', or a "
            "transform without biases and batch norm (batch_norm: none)"
        )
    merged = copy.deepcopy(layer)
    merged.linear = _merged_linear(layer.linear, matrix, None)
    total = layer.linear.weight.double()
    if layer.own is not None:
        merged.own = _merged_linear(layer.own, matrix, None)
        total = total + layer.own.weight.double()
    merged.bias = _as(layer.bias, layer.bias.double() + offset @ total)
    return merged


def _merged_linear(layer: Linear, matrix: Tensor, offset: Tensor | None) -> Linear:
    """The layer behind an affine map; with an offset it must have a bias to take it."""
    merged = copy.deepcopy(layer)
    weight = layer.weight.double()
    merged.weight = _as(layer.weight, matrix @ weight)
    if offset is None or not offset.any():
        return merged
    if layer.bias is None:
        raise ValueError(
            "the feature transform adds a constant, and the last layer has no bias to take it; "
            "give it one, or use a transform without biases and batch norm (batch_norm: none)"
        )
    merged.bias = _as(layer.bias, layer.bias.double() + offset @ weight)
    return merged


def _as(like: Tensor, value: Tensor) -> nn.Parameter:
    """A parameter of the type of another."""
    return nn.Parameter(value.detach().to(like.dtype))


def _a(module: nn.Module) -> str:
    name = type(module).__name__
    return f"{'an' if name[0] in 'AEIO' else 'a'} {name}"
