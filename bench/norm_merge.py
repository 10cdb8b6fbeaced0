"""Merge a feature transform into the layer behind it, exactly, or say why that cannot be.

The arithmetic and the traps are told in norm_transform.py.

Source: NORM, arXiv 2305.13803, which merges into the fully connected layer alone; its code does not
merge at all.
"""

import copy

from torch import Tensor, nn

from bench.layers import GCNConv, Linear, SAGEConv
from bench.norm_transform import FeatureTransform


def merge(transform: FeatureTransform, layer: nn.Module) -> nn.Module:
    """Return a copy of `layer` with the transform in front of it merged into it.

    Args:
        transform: in eval mode.
        layer: what reads its output: a Linear, GCNConv or SAGEConv.

    Raises:
        ValueError: it cannot be done exactly; the message says why.
    """
    matrix, offset = transform.affine()
    if type(layer) is Linear:  # a subclass may compute something else
        return _merged_linear(layer, matrix, offset)
    if type(layer) is SAGEConv:
        return _merged_sage(layer, matrix, offset)
    if type(layer) is not GCNConv:
        raise ValueError(
            f"a feature transform cannot be merged into a layer of type {type(layer).__name__}; "
            "known: GCNConv, Linear, SAGEConv"
        )
    if offset.any():
        raise ValueError(
            "the feature transform adds a constant, and propagation with symmetric normalisation "
            "scales it by each node's degree: no bias of a GCNConv stands for it; use a transform "
            "without batch norm (batch_norm: none)"
        )
    merged = copy.deepcopy(layer)
    merged.linear = _merged_linear(layer.linear, matrix, None)
    return merged


def _merged_sage(layer: SAGEConv, matrix: Tensor, offset: Tensor) -> SAGEConv:
    if layer.own is not None and offset.any():
        raise ValueError(
            "the feature transform adds a constant, which a node without neighbours does not get "
            "from SAGE's aggregator 'mean' while the others do; use the aggregator 'gcn', or a "
            "transform without batch norm (batch_norm: none)"
        )
    merged = copy.deepcopy(layer)
    merged.linear = _merged_linear(layer.linear, matrix, None)
    if layer.own is not None:
        merged.own = _merged_linear(layer.own, matrix, None)
    merged.bias = _as(layer.bias, layer.bias.double() + offset @ layer.linear.weight.double())
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
            "give it one, or use a transform without batch norm (batch_norm: none)"
        )
    merged.bias = _as(layer.bias, layer.bias.double() + offset @ weight)
    return merged


def _as(like: Tensor, value: Tensor) -> nn.Parameter:
    """A parameter of the type of another."""
    return nn.Parameter(value.detach().to(like.dtype))
