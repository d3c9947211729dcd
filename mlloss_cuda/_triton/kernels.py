# mypy: ignore-errors
"""The kernels: element-wise, streaming by row, split, sums over rows. They run any functor of ``functor.py``.

A program processes tiles of ``tile.rows`` rows. There are no atomics: partial results of programs are merged in a
fixed order. Kernels are not specialised for numbers such as ``rows`` and ``nnz``.
"""

import triton
import triton.language as tl

from . import terms
from .tile import (
    call_factor,
    finish_gradient,
    label_parameter,
    logit_scale,
    parameters,
    read,
    row_weight,
    rows_from,
    store,
)

__all__ = [
    "backward",
    "element_wise",
    "join",
    "label_gradient",
    "label_statistics",
    "merge",
    "pair",
    "scale",
    "second_pass_sums",
    "statistics",
    "streaming",
    "total",
]

# Groupings, as in _ops.GROUPINGS.
ELEMENT = tl.constexpr(0)
SAMPLES = tl.constexpr(1)
MACRO = tl.constexpr(2)


# ---- tuples of tensors ---------------------------------------------------------------------------------


@triton.jit
def _full(count: tl.constexpr, shape: tl.constexpr, x, T: tl.constexpr):
    result = ()
    for _ in tl.static_range(count):
        result = result + (tl.full(shape, x, T),)
    return result


@triton.jit
def _add(a, b):
    result = ()
    for i in tl.static_range(len(a)):
        result = result + (a[i] + b[i],)
    return result


@triton.jit
def _larger(a, b):
    result = ()
    for i in tl.static_range(len(a)):
        result = result + (tl.where(a[i] > b[i], a[i], b[i]),)
    return result


@triton.jit
def _sum(a, axis: tl.constexpr):
    result = ()
    for i in tl.static_range(len(a)):
        result = result + (tl.sum(a[i], axis),)
    return result


@triton.jit
def _max(a, axis: tl.constexpr):
    result = ()
    for i in tl.static_range(len(a)):
        result = result + (tl.max(a[i], axis),)
    return result


@triton.jit
def _only(where, a):
    result = ()
    for i in tl.static_range(len(a)):
        result = result + (tl.where(where, a[i], 0.0),)
    return result


@triton.jit
def _as_rows(a):
    result = ()
    for i in tl.static_range(len(a)):
        result = result + (a[i][:, None],)
    return result


# ---- statistics of rows --------------------------------------------------------------------------------


@triton.jit
def _at_edge(call, first, tile: tl.constexpr):
    """Return whether a tile has elements outside its rows, or groups of 16 elements that cross a row's end."""
    return (first == 0) | (first > call.labels - tile.columns)


@triton.jit
def _tile_sums(call, functor, p, block, first, tile: tl.constexpr, EDGE: tl.constexpr):
    _, s, y, w, _, place = read(call, block, first, tile, EDGE)
    return terms.first_sums(functor, s, y, w, label_parameter(call, place, tile.dtype), p, tile.soft)


@triton.jit
def _first_sums(call, functor, p, block, begin, end, tile: tl.constexpr):
    R: tl.constexpr = tile.rows
    C: tl.constexpr = tile.columns
    sums = _full(functor.sums_count, [R, C], 0.0, tile.dtype)
    for i in range(begin, end):
        first = i * tile.columns
        if tile.masked:
            sums = _add(sums, _tile_sums(call, functor, p, block, first, tile, True))
        elif _at_edge(call, first, tile):
            sums = _add(sums, _tile_sums(call, functor, p, block, first, tile, True))
        else:
            sums = _add(sums, _tile_sums(call, functor, p, block, first, tile, False))
    return _sum(sums, 1)


@triton.jit
def _statistics(call, functor, p, block, begin, end, tile: tl.constexpr):
    """Return maxima and sums of tiles ``begin`` to ``end``.

    The sums are first taken with all maxima at 0. If that is not enough, which is rare, one sweep finds the maxima and
    another takes the sums with them.
    """
    R: tl.constexpr = tile.rows
    C: tl.constexpr = tile.columns
    _, exists, _ = block
    m = _full(functor.maxima_count, [R], 0.0, tile.dtype)
    sums = _first_sums(call, functor, p, block, begin, end, tile)
    if functor.maxima_count > 0:
        m = terms.first_maxima(functor, sums, m)
        # One loop does both sweeps to save compile time. A loop replaces a branch, because for AMD a branch of Triton
        # 3.6 cannot yield this many values.
        for _sweep in range(2 * tl.max((terms.needs_max_shift(functor, sums) & exists).to(tl.int32))):
            maxima = _full(functor.maxima_count, [R, C], functor.initial, tile.dtype)
            partial = _full(functor.sums_count, [R, C], 0.0, tile.dtype)
            for i in range(begin, end):
                _x, s, y, w, valid, place = read(call, block, i * tile.columns, tile, True)
                maxima = _larger(terms.maxima(functor, s, y, w, p), maxima)
                parameter = label_parameter(call, place, tile.dtype)
                some = terms.sums(functor, s, y, w, _as_rows(m), parameter, p, tile.soft)
                # At a maximum of -inf, an invalid logit of -inf would have a difference of 0 and be counted.
                partial = _add(partial, _only(valid, some))
            m = _max(maxima, 1)
            sums = _sum(partial, 1)
    return m, sums


@triton.jit
def _second_pass_tile(call, functor, p, block, pass_input, first, tile: tl.constexpr, EDGE: tl.constexpr):
    _, s, y, w, _, _ = read(call, block, first, tile, EDGE)
    return functor.second_pass_sums(s, y, w, pass_input, p, tile.soft)


@triton.jit
def _second_pass_sums(call, functor, p, block, m, sums, tiles, tile: tl.constexpr):
    """Return the second-pass sums of whole rows with complete statistics."""
    R: tl.constexpr = tile.rows
    C: tl.constexpr = tile.columns
    pass_input = _as_rows(functor.second_pass_input(m, sums))
    second_sums = _full(functor.second_pass_count, [R, C], 0.0, tile.dtype)
    for i in range(0, tiles):
        first = i * tile.columns
        if tile.masked:
            second_sums = _add(second_sums, _second_pass_tile(call, functor, p, block, pass_input, first, tile, True))
        elif _at_edge(call, first, tile):
            second_sums = _add(second_sums, _second_pass_tile(call, functor, p, block, pass_input, first, tile, True))
        else:
            second_sums = _add(second_sums, _second_pass_tile(call, functor, p, block, pass_input, first, tile, False))
    return _sum(second_sums, 1)


@triton.jit
def _finalize(functor, p, m, sums, second_sums, results, group, exists, groups, weight):
    """Compute and store value and coefficients of groups, and return the coefficients."""
    if functor.second_pass_sums is not None:
        value, c = functor.finalize(m, sums, second_sums, p)
    else:
        value, c = terms.finalize(functor, m, sums, p)
    if results.losses is not None:
        value = tl.where(weight == 0.0, 0.0, value * weight)
        tl.store(results.losses + group, value, mask=exists)
    if results.coefficients is not None:
        for k in tl.static_range(len(c)):
            tl.store(results.coefficients + k * tl.cast(groups, tl.int64) + group, c[k], mask=exists)
    return c


# ---- streaming -----------------------------------------------------------------------------------------


@triton.jit
def _row_gradient(call, functor, p, c, results, block, live, first, tile: tl.constexpr, EDGE: tl.constexpr):
    _, s, y, w, valid, place = read(call, block, first, tile, EDGE)
    g = terms.gradient(functor, s, y, w, c, label_parameter(call, place, tile.dtype), p, tile.soft)
    g = finish_gradient(g, valid, live)
    store(results.gradient, results.gradient_row, g, block, place, first, tile, EDGE)


@triton.jit
def _row_gradients(call, functor, p, c, results, block, weight, tiles, tile: tl.constexpr):
    factor = call_factor(call, tile.dtype) * weight * logit_scale(call, tile.dtype)
    c = terms.scaled(functor, _as_rows(c), factor[:, None], p)
    live = weight != 0.0
    for i in range(0, tiles):
        first = i * tile.columns
        if tile.masked:
            _row_gradient(call, functor, p, c, results, block, live, first, tile, True)
        elif _at_edge(call, first, tile):
            _row_gradient(call, functor, p, c, results, block, live, first, tile, True)
        else:
            _row_gradient(call, functor, p, c, results, block, live, first, tile, False)


@triton.jit(do_not_specialize=["rows", "nnz", "tiles", "groups"])
def streaming(call, functor, results, rows, nnz, tiles, groups, tile: tl.constexpr):
    """A program processes whole rows: statistics, then gradients, for which the logits come from L2."""
    p = parameters(call, tile.dtype)
    for i in range(tl.program_id(0), tl.cdiv(rows, tile.rows), tl.num_programs(0)):
        block = rows_from(call, i * tile.rows, rows, nnz, tile)
        row, exists, _ = block
        m, sums = _statistics(call, functor, p, block, 0, tiles, tile)
        second_sums = ()
        if functor.second_pass_sums is not None:
            second_sums = _second_pass_sums(call, functor, p, block, m, sums, tiles, tile)
        weight = row_weight(call, row, exists, tile.dtype)
        c = _finalize(functor, p, m, sums, second_sums, results, row, exists, groups, weight)
        if results.gradient is not None:
            _row_gradients(call, functor, p, c, results, block, weight, tiles, tile)


# ---- gradients from coefficients -----------------------------------------------------------------------
# `given` is a tuple of the coefficients, the number of rows, and a GradOutput.


@triton.jit
def _output_factor(call, given, block, tile: tl.constexpr):
    """Return the factor of each row's gradient, [rows], and whether the row has a gradient."""
    _, _, grad_output = given
    row, exists, _ = block
    factor = tl.zeros(row.shape, tile.dtype) + call_factor(call, tile.dtype)
    live = exists
    if not tile.crosses_rows:
        weight = row_weight(call, row, exists, tile.dtype)
        factor = factor * weight
        live = exists & (weight != 0.0)
    if grad_output.tensor is not None:
        if grad_output.label is None:
            factor = factor * tl.load(grad_output.tensor + row * grad_output.row, mask=exists, other=0.0)
    return factor, live


@triton.jit
def _coefficients(call, functor, given, block, place, GROUPING: tl.constexpr):
    """Load the coefficients of each element's group."""
    coefficients, rows, _ = given
    row, exists, _ = block
    label, inside, _, _ = place
    c = ()
    for k in tl.static_range(functor.coefficients):
        if GROUPING == SAMPLES:
            c = c + (tl.load(coefficients + k * tl.cast(rows, tl.int64) + row, mask=exists, other=0.0)[:, None],)
        elif GROUPING == MACRO:
            c = c + (tl.load(coefficients + k * tl.cast(call.labels, tl.int64) + label, mask=inside, other=0.0),)
        else:
            c = c + (tl.load(coefficients + k),)
    return c


@triton.jit
def _of_each(given, block, place, g):
    """Return g times the grad_output of each element, if every element has its own."""
    _, _, grad_output = given
    row, _, _ = block
    if grad_output.tensor is not None:
        if grad_output.label is not None:
            label, inside, _, _ = place
            offsets = (row * grad_output.row)[:, None] + label.to(tl.int64) * grad_output.label
            g = g * tl.load(grad_output.tensor + offsets, mask=inside, other=0.0)
    return g


@triton.jit
def _gradient(call, functor, p, given, block, first, tile: tl.constexpr, EDGE: tl.constexpr, GROUPING: tl.constexpr):
    """Return x, d loss / d s times grad_output, and the tile's place."""
    factor, live = _output_factor(call, given, block, tile)
    x, s, y, w, valid, place = read(call, block, first, tile, EDGE)
    if GROUPING == ELEMENT:
        _, g = functor.evaluate(s, y, label_parameter(call, place, tile.dtype), p, tile.soft)
        g = g * (w * factor[:, None])
    else:
        c = _coefficients(call, functor, given, block, place, GROUPING)
        c = terms.scaled(functor, c, factor[:, None], p)
        g = terms.gradient(functor, s, y, w, c, label_parameter(call, place, tile.dtype), p, tile.soft)
    return x, finish_gradient(_of_each(given, block, place, g), valid, live), place


@triton.jit
def _backward_tile(
    call, functor, given, results, block, i, tiles, tile: tl.constexpr, EDGE: tl.constexpr, GROUPING: tl.constexpr
):
    row, exists, _ = block
    first = i * tile.columns
    p = parameters(call, tile.dtype)
    x, g, place = _gradient(call, functor, p, given, block, first, tile, EDGE, GROUPING)
    if results.row_sums is not None:
        tl.store(results.row_sums + row * tiles + i, tl.sum(g, 1), mask=exists)
    if results.scale_sums is not None:
        # An infinite or unknown logit with a gradient of 0 must not contribute.
        product = tl.where(g == 0.0, 0.0, g * x)
        tl.store(results.scale_sums + row * tiles + i, tl.sum(product, 1), mask=exists)
    if results.gradient is not None:
        g = g * logit_scale(call, tile.dtype)
        store(results.gradient, results.gradient_row, g, block, place, first, tile, EDGE)


@triton.jit(do_not_specialize=["rows", "nnz", "tiles"])
def backward(
    call, functor, coefficients, grad_output, results, rows, nnz, tiles, tile: tl.constexpr, GROUPING: tl.constexpr
):
    """A program processes one tile: gradients from coefficients, and their sums over the tile's labels."""
    given = coefficients, rows, grad_output
    i = tl.program_id(0) % tiles
    block = rows_from(call, tl.program_id(0) // tiles * tile.rows, rows, nnz, tile)
    if tile.masked:
        _backward_tile(call, functor, given, results, block, i, tiles, tile, True, GROUPING)
    elif _at_edge(call, i * tile.columns, tile):
        _backward_tile(call, functor, given, results, block, i, tiles, tile, True, GROUPING)
    else:
        _backward_tile(call, functor, given, results, block, i, tiles, tile, False, GROUPING)


@triton.jit(do_not_specialize=["rows", "nnz", "run", "splits"])
def label_gradient(
    call, functor, coefficients, grad_output, parts, rows, nnz, run, splits, tile: tl.constexpr, GROUPING: tl.constexpr
):
    """A program sums d loss / d s over ``run`` rows, for ``tile.columns`` labels: [splits, labels]."""
    given = coefficients, rows, grad_output
    R: tl.constexpr = tile.rows
    C: tl.constexpr = tile.columns
    p = parameters(call, tile.dtype)
    split = tl.program_id(0) % splits
    first = (tl.program_id(0) // splits) * tile.columns
    end = tl.minimum((split + 1) * run, rows)
    sums = tl.zeros([R, C], tile.dtype)
    for start in range(split * run, end, tile.rows):
        block = rows_from(call, start, end, nnz, tile)
        _x, g, _place = _gradient(call, functor, p, given, block, first, tile, True, GROUPING)
        sums += g
    label = first + tl.arange(0, tile.columns)
    at = parts + tl.cast(split, tl.int64) * call.labels + label
    tl.store(at, tl.sum(sums, 0), mask=label < call.labels)


# ---- element-wise --------------------------------------------------------------------------------------


@triton.jit
def _element_tile(call, functor, results, parts, block, first, tile: tl.constexpr, EDGE: tl.constexpr):
    row, exists, _ = block
    _, s, y, w, valid, place = read(call, block, first, tile, EDGE)
    parameter = label_parameter(call, place, tile.dtype)
    value, g = functor.evaluate(s, y, parameter, parameters(call, tile.dtype), tile.soft)
    weight = row_weight(call, row, exists, tile.dtype)
    live = weight != 0.0
    value = tl.where(valid & live[:, None], value * (w * weight[:, None]), 0.0)
    if results.losses is not None:
        label, inside, _, _ = place
        tl.store(results.losses + row[:, None] * call.labels + label, value, mask=inside)
    if parts is not None:
        tl.store(parts + tl.program_id(0), tl.sum(tl.sum(value, 1), 0))
    if results.gradient is not None:
        factor = call_factor(call, tile.dtype) * weight * logit_scale(call, tile.dtype)
        g = finish_gradient(g * (w * factor[:, None]), valid, live)
        store(results.gradient, results.gradient_row, g, block, place, first, tile, EDGE)


@triton.jit(do_not_specialize=["rows", "nnz", "tiles"])
def element_wise(call, functor, results, parts, rows, nnz, tiles, tile: tl.constexpr):
    """A program processes one tile: values and gradients in one visit."""
    first = tl.program_id(0) % tiles * tile.columns
    block = rows_from(call, tl.program_id(0) // tiles * tile.rows, rows, nnz, tile)
    if tile.masked:
        _element_tile(call, functor, results, parts, block, first, tile, True)
    elif _at_edge(call, first, tile):
        _element_tile(call, functor, results, parts, block, first, tile, True)
    else:
        _element_tile(call, functor, results, parts, block, first, tile, False)


@triton.jit
def _pair_tile(call, functor, given, results, parts, block, first, tile: tl.constexpr, EDGE: tl.constexpr):
    row, exists, _ = block
    factor, live = _output_factor(call, given, block, tile)
    _, s, y, w, valid, place = read(call, block, first, tile, EDGE)
    value, g, other = functor.evaluate_both(s, y)
    if parts is not None:
        weight = row_weight(call, row, exists, tile.dtype)
        value = tl.where(valid & live[:, None], value * (w * weight[:, None]), 0.0)
        tl.store(parts + tl.program_id(0), tl.sum(tl.sum(value, 1), 0))
    factor = w * (factor * logit_scale(call, tile.dtype))[:, None]
    g = finish_gradient(_of_each(given, block, place, g * factor), valid, live)
    other = finish_gradient(_of_each(given, block, place, other * factor), valid, live)
    store(results.gradient, results.gradient_row, g, block, place, first, tile, EDGE)
    store(results.other_gradient, results.gradient_row, other, block, place, first, tile, EDGE)


@triton.jit(do_not_specialize=["rows", "nnz", "tiles"])
def pair(call, functor, grad_output, results, parts, rows, nnz, tiles, tile: tl.constexpr):
    """A program processes one tile: the gradients of both logits and, unless ``parts`` is None, values."""
    given = None, rows, grad_output
    first = tl.program_id(0) % tiles * tile.columns
    block = rows_from(call, tl.program_id(0) // tiles * tile.rows, rows, nnz, tile)
    if tile.masked:
        _pair_tile(call, functor, given, results, parts, block, first, tile, True)
    elif _at_edge(call, first, tile):
        _pair_tile(call, functor, given, results, parts, block, first, tile, True)
    else:
        _pair_tile(call, functor, given, results, parts, block, first, tile, False)


# ---- split ---------------------------------------------------------------------------------------------
# `parts` are the statistics of parts of groups, [maxima and sums, splits, groups].


@triton.jit
def _store_parts(parts, m, sums, split, splits, group, exists, groups):
    step = tl.cast(groups, tl.int64) * splits
    at = parts + tl.cast(groups, tl.int64) * split + group
    for k in tl.static_range(len(m)):
        tl.store(at + k * step, m[k], mask=exists)
    for k in tl.static_range(len(sums)):
        tl.store(at + (k + len(m)) * step, sums[k], mask=exists)


@triton.jit(do_not_specialize=["rows", "nnz", "tiles", "run", "splits", "groups"])
def statistics(call, functor, parts, rows, nnz, tiles, run, splits, groups, tile: tl.constexpr):
    """A program processes ``run`` tiles of ``tile.rows`` rows, or, for one group, whole rows in strides."""
    R: tl.constexpr = tile.rows
    p = parameters(call, tile.dtype)
    if tile.crosses_rows:
        sums = _full(functor.sums_count, [R], 0.0, tile.dtype)
        for i in range(tl.program_id(0), tl.cdiv(rows, tile.rows), tl.num_programs(0)):
            block = rows_from(call, i * tile.rows, rows, nnz, tile)
            sums = _add(sums, _first_sums(call, functor, p, block, 0, tiles, tile))
        group = tl.arange(0, 1)
        _store_parts(parts, (), _sum(_as_rows(sums), 0), tl.program_id(0), splits, group, group == 0, groups)
    else:
        split = tl.program_id(0) % splits
        block = rows_from(call, tl.program_id(0) // splits * tile.rows, rows, nnz, tile)
        row, exists, _ = block
        end = tl.minimum((split + 1) * run, tiles)
        m, sums = _statistics(call, functor, p, block, split * run, end, tile)
        _store_parts(parts, m, sums, split, splits, row, exists, groups)


@triton.jit(do_not_specialize=["rows", "nnz", "run", "splits"])
def label_statistics(call, functor, parts, rows, nnz, run, splits, tile: tl.constexpr):
    """A program processes ``run`` rows of ``tile.columns`` labels, each of which is a group."""
    R: tl.constexpr = tile.rows
    C: tl.constexpr = tile.columns
    p = parameters(call, tile.dtype)
    split = tl.program_id(0) % splits
    first = (tl.program_id(0) // splits) * tile.columns
    end = tl.minimum((split + 1) * run, rows)
    sums = _full(functor.sums_count, [R, C], 0.0, tile.dtype)
    for start in range(split * run, end, tile.rows):
        block = rows_from(call, start, end, nnz, tile)
        _x, s, y, w, _valid, _place = read(call, block, first, tile, True)
        sums = _add(sums, functor.first_sums(s, y, w, p, tile.soft))
    label = first + tl.arange(0, tile.columns)
    _store_parts(parts, (), _sum(sums, 0), split, splits, label.to(tl.int64), label < call.labels, call.labels)


@triton.jit
def _load_parts(parts, count: tl.constexpr, first, split, splits, group, groups, mask, other):
    step = tl.cast(groups, tl.int64) * splits
    at = parts + split.to(tl.int64)[None, :] * groups + group[:, None]
    result = ()
    for k in tl.static_range(count):
        result = result + (tl.load(at + (k + first) * step, mask=mask, other=other),)
    return result


@triton.jit
def _joined(functor, parts, splits, group, exists, groups, tile: tl.constexpr):
    """Merge the parts of groups to maxima and sums, ``tile.columns`` splits at a time."""
    G: tl.constexpr = tile.rows
    S: tl.constexpr = tile.columns
    m = _full(functor.maxima_count, [G, S], functor.initial, tile.dtype)
    sums = _full(functor.sums_count, [G, S], 0.0, tile.dtype)
    for first in range(0, splits, S):
        split = first + tl.arange(0, S)
        mask = exists[:, None] & (split < splits)[None, :]
        some_m = _load_parts(parts, functor.maxima_count, 0, split, splits, group, groups, mask, functor.initial)
        some = _load_parts(parts, functor.sums_count, functor.maxima_count, split, splits, group, groups, mask, 0.0)
        if functor.maxima_count > 0:
            top = _larger(some_m, m)
            some = terms.rescale(functor, some, some_m, top)
            sums = terms.rescale(functor, sums, m, top)
            m = top
        sums = _add(sums, some)
    if functor.maxima_count > 0:
        top = _max(m, 1)
        sums = terms.rescale(functor, sums, m, _as_rows(top))
        return top, _sum(sums, 1)
    else:
        return (), _sum(sums, 1)


@triton.jit
def _groups_of(groups, tile: tl.constexpr):
    """Return the program's groups, and which of them exist."""
    group = (tl.program_id(0) * tile.rows + tl.arange(0, tile.rows)).to(tl.int64)
    return group, group < groups


@triton.jit(do_not_specialize=["splits", "groups"])
def merge(call, functor, parts, second_sums, results, splits, groups, tile: tl.constexpr, GROUPING: tl.constexpr):
    """Merge the parts of ``tile.rows`` groups and finalize them to value and coefficients.

    ``second_sums`` are the second-pass sums, [sums, groups], or None.
    """
    p = parameters(call, tile.dtype)
    group, exists = _groups_of(groups, tile)
    m, sums = _joined(functor, parts, splits, group, exists, groups, tile)
    loaded = ()
    if second_sums is not None:
        for k in tl.static_range(functor.second_pass_count):
            loaded = loaded + (tl.load(second_sums + k * tl.cast(groups, tl.int64) + group, mask=exists, other=0.0),)
    weight = tl.full([tile.rows], 1.0, tile.dtype)
    if GROUPING == SAMPLES:
        weight = row_weight(call, group, exists, tile.dtype)
    _finalize(functor, p, m, sums, loaded, results, group, exists, groups, weight)


# ---- over a part of the labels -------------------------------------------------------------------------


@triton.jit(do_not_specialize=["splits", "groups"])
def join(functor, parts, out, splits, groups, tile: tl.constexpr):
    """Merge the parts of ``tile.rows`` groups to one: [maxima and sums, groups]."""
    group, exists = _groups_of(groups, tile)
    m, sums = _joined(functor, parts, splits, group, exists, groups, tile)
    _store_parts(out, m, sums, 0, 1, group, exists, groups)


@triton.jit
def _load_statistics(merged, first, count: tl.constexpr, row, exists, rows, T: tl.constexpr):
    result = ()
    for k in tl.static_range(count):
        x = tl.load(merged + (first + k) * tl.cast(rows, tl.int64) + row, mask=exists, other=0.0)
        result = result + (x.to(T),)
    return result


@triton.jit(do_not_specialize=["rows", "nnz", "tiles"])
def second_pass_sums(call, functor, merged, out, rows, nnz, tiles, tile: tl.constexpr):
    """Second-pass sums of a part's rows, [sums, rows], from the ``merged`` statistics, [maxima and sums, rows]."""
    p = parameters(call, tile.dtype)
    for i in range(tl.program_id(0), tl.cdiv(rows, tile.rows), tl.num_programs(0)):
        block = rows_from(call, i * tile.rows, rows, nnz, tile)
        row, exists, _ = block
        m = _load_statistics(merged, 0, functor.maxima_count, row, exists, rows, tile.dtype)
        sums = _load_statistics(merged, functor.maxima_count, functor.sums_count, row, exists, rows, tile.dtype)
        second_sums = _second_pass_sums(call, functor, p, block, m, sums, tiles, tile)
        _store_parts(out, (), second_sums, 0, 1, row, exists, rows)


# ---- totals --------------------------------------------------------------------------------------------


@triton.jit(do_not_specialize=["count"])
def total(call, parts, out, count, C: tl.constexpr):
    """Add up the reduced loss from its parts, in one program."""
    T: tl.constexpr = parts.dtype.element_ty
    sums = tl.zeros([C], T)
    for first in range(0, count, C):
        at = first + tl.arange(0, C)
        sums += tl.load(parts + at, mask=at < count, other=0.0)
    tl.store(out, tl.sum(sums, 0) * call_factor(call, T))


@triton.jit(do_not_specialize=["count"])
def scale(gradient, grad_output, count, C: tl.constexpr):
    """Multiply a gradient by grad_output in place. A factor of 1 costs only a launch, and no traffic."""
    factor = tl.load(grad_output)
    if factor != 1.0:
        at = tl.program_id(0).to(tl.int64) * C + tl.arange(0, C)
        x = tl.load(gradient + at, mask=at < count, other=0.0)
        tl.store(gradient + at, (x.to(factor.dtype) * factor).to(x.dtype), mask=at < count)
