"""Compiled loops over compressed rows and elements (numba), CPU only.

Plain loops: the inner one, over contiguous columns, is what the compiler vectorises. Every result
is bit-equal whatever the number of threads: a thread owns whole rows, or whole columns, of the
result, and random numbers are a function of a seed and a position.
"""

import contextlib
import ctypes
import functools
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch


def cache_folder() -> str:
    """A writable folder of compiled kernels, one for each version of Python."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    version = f"{sys.version_info[0]}{sys.version_info[1]}"
    return str(root / "gkdbench" / f"numba-{version}")


os.environ.setdefault("NUMBA_CACHE_DIR", cache_folder())

import numba  # noqa: E402  (reads NUMBA_CACHE_DIR when imported)


def keep_memory() -> bool:
    """Let freed tensors be used again instead of going back to the system; tell whether it does.

    By default glibc maps every tensor above 128 KiB (up to 32 MiB, as it adapts) anew and the
    system clears its pages, at every step of a fit. torch asks for huge pages where it is told to
    before its first large tensor. Both are silent where they are not known (other C libraries).
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    with contextlib.suppress(OSError, AttributeError, TypeError):
        library = ctypes.CDLL(None)
        if not hasattr(library, "gnu_get_libc_version"):
            return False
        trim, mmap = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
        return bool(library.mallopt(mmap, 2**25) and library.mallopt(trim, 2**29))
    return False


keep_memory()

_jit: Any = functools.partial(
    numba.njit, parallel=True, cache=True, nogil=True, fastmath={"contract", "nsz"}
)


@_jit
def spmm_rows(indptr, indices, values, b, out):  # type: ignore[no-untyped-def]
    """Out = A b."""
    for i in numba.prange(out.shape[0]):
        for k in range(out.shape[1]):
            out[i, k] = 0.0
        for e in range(indptr[i], indptr[i + 1]):
            value, j = values[e], indices[e]
            for k in range(out.shape[1]):
                out[i, k] += value * b[j, k]


@_jit
def spmm_gather(indptr, indices, values, rows, b, bias, out):  # type: ignore[no-untyped-def]
    """Out = A[rows] b + bias."""
    for i in numba.prange(out.shape[0]):
        for k in range(out.shape[1]):
            out[i, k] = bias[k]
        for e in range(indptr[rows[i]], indptr[rows[i] + 1]):
            value, j = values[e], indices[e]
            for k in range(out.shape[1]):
                out[i, k] += value * b[j, k]


@_jit
def spmm_scatter(indptr, indices, values, rows, grad, threads, out):  # type: ignore[no-untyped-def]
    """Add A[rows]^T grad to out."""
    # A thread owns a block of columns, so rows of `out` that repeat are never shared, and each sum
    # runs in the same order however many threads there are. Slices let the compiler vectorise.
    width = (out.shape[1] + threads - 1) // threads
    for block in numba.prange(threads):
        first, last = block * width, min(out.shape[1], (block + 1) * width)
        for i in range(rows.shape[0]):
            for e in range(indptr[rows[i]], indptr[rows[i] + 1]):
                value = values[e]
                target, source = out[indices[e], first:last], grad[i, first:last]
                for k in range(target.shape[0]):
                    target[k] += value * source[k]


@_jit
def spmm_heads(indptr, indices, values, b, out):  # type: ignore[no-untyped-def]
    """Out = A b for each head, with a value for each entry and head."""
    for i in numba.prange(out.shape[0]):
        out[i] = 0.0
        for e in range(indptr[i], indptr[i + 1]):
            j = indices[e]
            for h in range(out.shape[1]):
                value = values[e, h]
                for k in range(out.shape[2]):
                    out[i, h, k] += value * b[j, h, k]


@_jit
def sddmm(indptr, indices, left, right, out):  # type: ignore[no-untyped-def]
    """For each entry (i, j) and head, the product of left row i and right row j."""
    for i in numba.prange(left.shape[0]):
        for e in range(indptr[i], indptr[i + 1]):
            j = indices[e]
            for h in range(left.shape[1]):
                total = np.float32(0.0)
                for k in range(left.shape[2]):
                    total += left[i, h, k] * right[j, h, k]
                out[e, h] = total


@_jit
def softmax_rows(indptr, scores, out):  # type: ignore[no-untyped-def]
    """Softmax of the scores over the entries of each row."""
    for i in numba.prange(indptr.shape[0] - 1):
        first, last = indptr[i], indptr[i + 1]
        for h in range(scores.shape[1]):
            top = np.float32(-np.inf)
            for e in range(first, last):
                top = max(top, scores[e, h])
            total = np.float32(0.0)
            for e in range(first, last):
                out[e, h] = np.exp(scores[e, h] - top)
                total += out[e, h]
            for e in range(first, last):
                out[e, h] /= total


@_jit
def softmax_grad(indptr, probs, grad, out):  # type: ignore[no-untyped-def]
    """Gradient of `softmax_rows`."""
    for i in numba.prange(indptr.shape[0] - 1):
        for h in range(probs.shape[1]):
            total = np.float32(0.0)
            for e in range(indptr[i], indptr[i + 1]):
                total += probs[e, h] * grad[e, h]
            for e in range(indptr[i], indptr[i + 1]):
                out[e, h] = probs[e, h] * (grad[e, h] - total)


@_jit
def soft_labels(logits, teacher_log_probs, losses, grad):  # type: ignore[no-untyped-def]
    """KL(teacher || softmax(logits)) of each row, and its gradient, in one pass."""
    for i in numba.prange(logits.shape[0]):
        top = np.float32(-np.inf)
        for c in range(logits.shape[1]):
            top = max(top, logits[i, c])
        total = np.float32(0.0)
        for c in range(logits.shape[1]):
            grad[i, c] = np.exp(logits[i, c] - top)
            total += grad[i, c]
        offset = top + np.log(total)
        loss = np.float32(0.0)
        for c in range(logits.shape[1]):
            target = np.exp(teacher_log_probs[i, c])
            if target != 0.0:  # a class of no weight adds nothing; a NaN passes
                loss += target * (teacher_log_probs[i, c] - logits[i, c] + offset)
            grad[i, c] = grad[i, c] / total - target
        losses[i] = loss


@_jit
def relu_dropout(h, keep_below, scale, seed, out):  # type: ignore[no-untyped-def]
    """ReLU, then dropout, with random bits that are a function of seed and position."""
    # The random bits are a mixed counter ("lowbias32" constants of C. Wellons' hash search), so
    # that the loop vectorises and does not depend on who runs which part of it.
    for i in numba.prange(h.shape[0]):
        row = np.uint32(np.uint32(i) * np.uint32(0x9E3779B9) + seed)
        for k in range(h.shape[1]):
            # The casts keep every step in 32 bits; the compiler would widen it otherwise.
            bits = np.uint32(row ^ np.uint32(np.uint32(k) * np.uint32(0x85EBCA6B)))
            bits = np.uint32(np.uint32(bits ^ (bits >> np.uint32(16))) * np.uint32(0x7FEB352D))
            bits = np.uint32(np.uint32(bits ^ (bits >> np.uint32(15))) * np.uint32(0x846CA68B))
            bits = np.uint32(bits ^ (bits >> np.uint32(16)))
            value = h[i, k]
            # Not `value > 0`: a NaN must pass, or a fit that diverged would look finite.
            dropped = (value <= 0.0) | (bits >= keep_below)
            out[i, k] = np.float32(0.0) if dropped else value * scale


@_jit
def relu_dropout_grad(out, grad, scale, result):  # type: ignore[no-untyped-def]
    """Gradient of `relu_dropout`."""
    for i in numba.prange(out.shape[0]):
        for k in range(out.shape[1]):
            result[i, k] = grad[i, k] * scale if out[i, k] > 0.0 else np.float32(0.0)


@_jit
def adam(p, grad, mean, square, rate, decay, correction):  # type: ignore[no-untyped-def]
    """One step of Adam on flat arrays; `correction` is sqrt(1 - beta2^t)."""
    for i in numba.prange(p.shape[0]):
        g = grad[i] + decay * p[i]
        mean[i] += np.float32(0.1) * (g - mean[i])
        square[i] += np.float32(0.001) * (g * g - square[i])
        p[i] -= rate * mean[i] / (np.sqrt(square[i]) / correction + np.float32(1e-8))


def threads() -> int:
    """Number of threads the loops use."""
    return int(numba.get_num_threads())


def set_threads(count: int) -> None:
    """Give torch and the kernels the same number of threads."""
    # The kernels first: the pool that numba launches at its first call sets torch's number, too.
    numba.set_num_threads(min(count, numba.config.NUMBA_NUM_THREADS))  # type: ignore[attr-defined]
    torch.set_num_threads(count)
