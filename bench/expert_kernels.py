"""Compiled loops of mixtures of experts (numba), CPU only; the rules are those of kernels.py.

Masks of dropout are a function of a seed, the expert and the entry: each expert drops its own, and
the gradient draws the same ones again, so that none is stored. An entry stays where its bits are at
most `keep_to`.
"""

import functools
from typing import Any

import numpy as np

from bench.kernels import _jit, numba  # in this order: kernels tells numba where to cache

_inline: Any = functools.partial(numba.njit, inline="always")
# A sum along a row vectorises only where its order is free (once compiled, it is fixed).
_sum_jit: Any = functools.partial(
    numba.njit, parallel=True, cache=True, nogil=True, fastmath={"contract", "nsz", "reassoc"}
)


@_inline
def _bits(row, column):  # type: ignore[no-untyped-def]
    # The mixer of kernels.relu_dropout.
    bits = np.uint32(row ^ np.uint32(np.uint32(column) * np.uint32(0x85EBCA6B)))
    bits = np.uint32(np.uint32(bits ^ (bits >> np.uint32(16))) * np.uint32(0x7FEB352D))
    bits = np.uint32(np.uint32(bits ^ (bits >> np.uint32(15))) * np.uint32(0x846CA68B))
    return np.uint32(bits ^ (bits >> np.uint32(16)))


@_inline
def _start(seed, expert, row):  # type: ignore[no-untyped-def]
    mixed = np.uint32(np.uint32(row) * np.uint32(0x9E3779B9) + seed)
    return np.uint32(mixed ^ np.uint32(np.uint32(expert) * np.uint32(0x632BE5AB)))


# ---- dense rows -----------------------------------------------------------------------------


@_jit
def gather(x, rows, expert, keep_to, scale, seed, out):  # type: ignore[no-untyped-def]
    """Copy rows of x for one expert, with its dropout."""
    for i in numba.prange(rows.shape[0]):
        b = rows[i]
        start = _start(seed, expert, b)
        for k in range(out.shape[1]):
            out[i, k] = x[b, k] * scale if _bits(start, k) <= keep_to else np.float32(0.0)


@_sum_jit
def scatter(x, below, rows, gates, expert, keep_to, scale, seed, part, out, dots):  # type: ignore[no-untyped-def]
    """Go back through `gather`, whose rows it makes again in part, with one draw of the masks.

    Adds the gradient below, times gates, to the rows of out (an expert holds a row once); dots are
    the products of each row of part and of below, the gradients of the gates.
    """
    for i in numba.prange(rows.shape[0]):
        b, gate, total = rows[i], gates[i], np.float32(0.0)
        start = _start(seed, expert, b)
        for k in range(out.shape[1]):
            factor = scale if _bits(start, k) <= keep_to else np.float32(0.0)
            part[i, k] = x[b, k] * factor
            out[b, k] += below[i, k] * factor * gate
            total += x[b, k] * factor * below[i, k]
        dots[i] = total


@_jit
def add_scaled(part, rows, gates, out):  # type: ignore[no-untyped-def]
    """Add part, times gates, to the rows of out, which do not repeat."""
    for i in numba.prange(rows.shape[0]):
        b, gate = rows[i], gates[i]
        for k in range(out.shape[1]):
            out[b, k] += part[i, k] * gate


# ---- compressed rows ------------------------------------------------------------------------


@_jit
def sparse_forward(  # type: ignore[no-untyped-def]
    indptr, indices, values, rows, experts, gates, weight, keep_to, scale, seed, out
):
    """Add the weighted sum of its experts to each row of out, for the rows x[rows]."""
    # What is kept is listed first, so that four rows of the weight are added at a time.
    for i in numba.prange(rows.shape[0]):
        first, last = indptr[rows[i]], indptr[rows[i] + 1]
        most = experts.shape[1] * (last - first) + 1
        who, what = np.empty(most, np.int32), np.empty(most, np.int32)
        factors = np.empty(most, np.float32)
        count = 0
        for j in range(experts.shape[1]):
            expert, gate = experts[i, j], gates[i, j] * scale
            start = _start(seed, expert, i)
            for e in range(first, last):
                who[count], what[count], factors[count] = expert, indices[e], values[e] * gate
                count += _bits(start, e) <= keep_to
        target, t = out[i], 0
        while t + 4 <= count:
            f0, f1, f2, f3 = factors[t], factors[t + 1], factors[t + 2], factors[t + 3]
            w0, w1 = weight[who[t], what[t]], weight[who[t + 1], what[t + 1]]
            w2, w3 = weight[who[t + 2], what[t + 2]], weight[who[t + 3], what[t + 3]]
            for k in range(target.shape[0]):
                target[k] += f0 * w0[k] + f1 * w1[k] + f2 * w2[k] + f3 * w3[k]
            t += 4
        while t < count:
            factor, source = factors[t], weight[who[t], what[t]]
            for k in range(target.shape[0]):
                target[k] += factor * source[k]
            t += 1


@_jit
def sparse_transposed(  # type: ignore[no-untyped-def]
    indptr, columns, entries, values, position, experts, gates, grad, keep_to, scale, seed, out
):
    """Out = every expert's gradient, row f from the nodes that have feature f.

    Entry t of x transposed is entry entries[t] of x; position: a node's row in the batch, or -1.
    """
    for f in numba.prange(indptr.shape[0] - 1):
        for expert in range(out.shape[0]):
            for k in range(out.shape[2]):
                out[expert, f, k] = 0.0
        for t in range(indptr[f], indptr[f + 1]):
            i = position[columns[t]]
            if i < 0:
                continue
            source = grad[i]
            for j in range(experts.shape[1]):
                expert = experts[i, j]
                if _bits(_start(seed, expert, i), entries[t]) <= keep_to:
                    value, target = values[t] * gates[i, j] * scale, out[expert, f]
                    for k in range(target.shape[0]):
                        target[k] += value * source[k]


@_jit
def sparse_scatter(  # type: ignore[no-untyped-def]
    indptr, indices, values, rows, experts, gates, grad, keep_to, scale, seed, threads, out
):
    """Add the same to out, for a small batch; a thread owns a block of columns."""
    width = (out.shape[2] + threads - 1) // threads
    for block in numba.prange(threads):
        first, last = block * width, min(out.shape[2], (block + 1) * width)
        for i in range(rows.shape[0]):
            source = grad[i, first:last]
            for j in range(experts.shape[1]):
                expert, gate = experts[i, j], gates[i, j] * scale
                start = _start(seed, expert, i)
                for e in range(indptr[rows[i]], indptr[rows[i] + 1]):
                    if _bits(start, e) <= keep_to:
                        value, target = values[e] * gate, out[expert, indices[e], first:last]
                        for k in range(target.shape[0]):
                            target[k] += value * source[k]


@_sum_jit
def sparse_gate_grad(  # type: ignore[no-untyped-def]
    indptr, indices, values, rows, experts, weight, grad, keep_to, scale, seed, out
):
    """Out = the product of each row's gradient and of each of its experts' outputs."""
    for i in numba.prange(rows.shape[0]):
        above = grad[i]
        for j in range(experts.shape[1]):
            expert, total = experts[i, j], np.float32(0.0)
            start = _start(seed, expert, i)
            for e in range(indptr[rows[i]], indptr[rows[i] + 1]):
                if _bits(start, e) <= keep_to:
                    dot, source = np.float32(0.0), weight[expert, indices[e]]
                    for k in range(above.shape[0]):
                        dot += source[k] * above[k]
                    total += values[e] * scale * dot
            out[i, j] = total
