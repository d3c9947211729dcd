# mypy: ignore-errors
"""Reading and writing tiles of rows x columns.

Rows of odd length may begin at any element. The columns of a tile count from the 16-element boundary before its row's
first logit, so that accesses of 16 bytes stay possible; a label is a column minus the row's shift. Groups of 16 that
cross the end of a row are read and written element by element, in the tiles at the edges only.
"""

import triton
import triton.language as tl

from .numerics import nan_of

__all__ = [
    "call_factor",
    "finish_gradient",
    "label_parameter",
    "logit_scale",
    "number",
    "parameters",
    "read",
    "row_weight",
    "rows_from",
    "store",
]

_GROUP = tl.constexpr(16)  # elements: at least 16 bytes of every dtype
_LOOP = tl.constexpr(64)  # up to this number, the CSR entries of a tile are placed one after another


@triton.jit
def number(x, T: tl.constexpr):
    """Return a scalar argument in the compute dtype."""
    if tl.float64 == T:
        return tl.cast(x[0], T) + tl.cast(x[1], T)
    else:
        return tl.cast(x[0], T)


@triton.jit
def parameters(call, T: tl.constexpr):
    """Return the loss's parameters as the tuple that functors take."""
    result = ()
    for i in tl.static_range(len(call.numbers.parameters)):
        result = result + (number(call.numbers.parameters[i], T),)
    return result


@triton.jit
def call_factor(call, T: tl.constexpr):
    """Return the reduction's factor of every value and gradient."""
    factor = number(call.numbers.factor, T)
    if call.normalizer is not None:
        factor = factor / tl.load(call.normalizer)
    return factor


@triton.jit
def row_weight(call, row, exists, T: tl.constexpr):
    """Return the rows' sample weights, [rows]."""
    weight = tl.full(row.shape, 1.0, T)
    if call.sample_weight is not None:
        weight = tl.load(call.sample_weight + row, mask=exists, other=0.0)
    return weight


@triton.jit
def _places(call, block, first, tile: tl.constexpr, EDGE: tl.constexpr):
    """Return label, inside, whole and shift for a block's tile at column ``first``.

    ``whole``: the element's group of 16 lies within the row.
    """
    row, exists, _ = block
    R: tl.constexpr = tile.rows
    C: tl.constexpr = tile.columns
    column = first + tl.arange(0, C)
    shift = tl.zeros([R], tl.int32)
    if tile.wide:
        shift = ((row * call.logits_row) % _GROUP).to(tl.int32)
    label = column[None, :] - shift[:, None]
    inside = tl.full([R, C], True, tl.int1)
    whole = inside
    if EDGE:
        inside = (label >= 0) & (label < call.labels) & exists[:, None]
        group = (column // _GROUP * _GROUP)[None, :] - shift[:, None]
        whole = (group >= 0) & (group <= call.labels - _GROUP) & exists[:, None]
    return label, inside, whole, shift


@triton.jit
def _offsets(row, shift, label, first, row_stride, label_stride, tile: tl.constexpr, WIDE: tl.constexpr):
    """Return offsets in elements from the start of a tensor, [R, C]."""
    if WIDE:
        aligned = tl.multiple_of(row * row_stride - shift, _GROUP)
        return aligned[:, None] + (first + tl.arange(0, tile.columns))[None, :]
    else:
        return (row * row_stride)[:, None] + label.to(tl.int64) * label_stride


@triton.jit
def _load(pointer, offsets, inside, whole, WIDE: tl.constexpr, EDGE: tl.constexpr):
    if not EDGE:
        return tl.load(pointer + offsets)
    elif not WIDE:
        return tl.load(pointer + offsets, mask=inside, other=0)
    else:
        x = tl.load(pointer + offsets, mask=whole, other=0)
        alone = inside & (whole == 0)
        return tl.where(alone, tl.load(pointer + offsets, mask=alone, other=0), x)


@triton.jit
def store(pointer, row_stride, x, block, place, first, tile: tl.constexpr, EDGE: tl.constexpr):
    """Write a tile to memory of the logits' shape with contiguous labels."""
    row, _, _ = block
    label, inside, whole, shift = place
    offsets = _offsets(row, shift, label, first, row_stride, 1, tile, tile.wide_gradient)
    x = x.to(pointer.dtype.element_ty)
    if not EDGE:
        tl.store(pointer + offsets, x)
    elif not tile.wide_gradient:
        tl.store(pointer + offsets, x, mask=inside)
    else:
        tl.store(pointer + offsets, x, mask=whole)
        tl.store(pointer + offsets, x, mask=inside & (whole == 0))


# ---- CSR ---------------------------------------------------------------------------------------------


@triton.jit
def _sparse_rows(call, row, exists, nnz):
    """Return the rows' first entries and counts, clamped to the buffers for any crow_indices."""
    if call.crow is None:
        return row, tl.zeros(row.shape, tl.int32)
    else:
        begin = tl.load(call.crow + row, mask=exists, other=0).to(tl.int64)
        end = tl.load(call.crow + row + 1, mask=exists, other=0).to(tl.int64)
        begin = tl.minimum(tl.maximum(begin, 0), nnz)
        end = tl.minimum(tl.maximum(end, begin), nnz)
        most = call.labels
        if call.all_labels is not None:
            most = call.all_labels
        return begin, tl.minimum(end - begin, most).to(tl.int32)


@triton.jit
def rows_from(call, start, rows, nnz, tile: tl.constexpr):
    """Return a block: ``tile.rows`` rows from ``start``, which of them exist (are below ``rows``), their entries."""
    row = (start + tl.arange(0, tile.rows)).to(tl.int64)
    exists = row < rows
    return row, exists, _sparse_rows(call, row, exists, nnz)


@triton.jit
def _column(call, begin, at, mask):
    """Return the columns of entries, -1 for invalid labels; entries right of a part are one past its last label."""
    column = tl.load(call.columns + begin + at, mask=mask, other=-1)
    if call.first_label is not None:
        column = tl.minimum(tl.where(mask, column - call.first_label, -1), call.labels)
        return tl.maximum(column, -1).to(tl.int32)
    else:
        return tl.where((column >= 0) & (column < call.labels), column, -1).to(tl.int32)


@triton.jit
def _first_not_below(call, begin, low, high, label):
    """Return the first of the entries ``low`` to ``high`` with a column >= ``label``, for each row."""
    while tl.max(high - low) > 0:
        middle = (low + high) // 2
        open_ = low < high
        below = _column(call, begin, middle, open_) < label
        low = tl.where(open_ & below, middle + 1, low)
        high = tl.where(open_ & (below == 0), middle, high)
    return low


@triton.jit
def _entry(call, begin, at, mask, T: tl.constexpr):
    if call.probabilities is None:
        return tl.where(mask, 1.0, 0.0).to(T)
    else:
        return tl.load(call.probabilities + begin + at, mask=mask, other=0.0).to(T)


@triton.jit
def _sparse_targets(call, entries, label, shift, first, tile: tl.constexpr):
    """Return the targets of a tile from its rows' entries. Most tiles of a long row have none, and cost one search."""
    T: tl.constexpr = tile.dtype
    R: tl.constexpr = tile.rows
    C: tl.constexpr = tile.columns
    begin, count = entries
    y = tl.zeros([R, C], T)
    low = _first_not_below(call, begin, tl.zeros_like(count), count, first - shift)
    next_ = _column(call, begin, low, low < count)
    if tl.max(((next_ >= 0) & (next_ < first + tile.columns - shift)).to(tl.int32)) > 0:
        high = _first_not_below(call, begin, low, count, first + tile.columns - shift)
        most = tl.max(high - low)
        if most <= _LOOP:
            for k in range(most):
                at = low + k
                exists = at < high
                column = _column(call, begin, at, exists)
                y = tl.where(label == column[:, None], _entry(call, begin, at, exists, T)[:, None], y)
        else:
            # Each label searches the first entry with a column >= its own, by powers of two.
            step = 1
            while step * 2 <= most:
                step *= 2
            place = tl.zeros([R, C], tl.int32) + low[:, None]
            while step > 0:
                at = place + (step - 1)
                inside = at < high[:, None]
                below = inside & (_column(call, begin[:, None], at, inside) < label)
                place = tl.where(below, place + step, place)
                step = step // 2
            found = (place < high[:, None]) & (label >= 0)
            found = found & (_column(call, begin[:, None], place, found) == label)
            y = _entry(call, begin[:, None], place, found, T)
    return y


# ---- both ---------------------------------------------------------------------------------------------


@triton.jit
def _dense_targets(call, block, place, first, tile: tl.constexpr, EDGE: tl.constexpr):
    """Return targets, which elements are excluded, and which targets are invalid and make their logit NaN."""
    T: tl.constexpr = tile.dtype
    row, _, _ = block
    label, inside, whole, shift = place
    offsets = _offsets(row, shift, label, first, call.targets_row, call.targets_label, tile, tile.wide_targets)
    raw = _load(call.targets, offsets, inside, whole, tile.wide_targets, EDGE)
    excluded = inside == 0
    if tile.second_logits:
        return raw.to(T) * logit_scale(call, T), excluded, label < label
    elif raw.dtype.is_floating():
        if tile.ignores_nan:
            excluded = excluded | (raw != raw)
        if call.ignore_index is not None:
            if raw.dtype == tl.float64:
                excluded = excluded | (raw == tl.cast(call.ignore_index, tl.float64))
            else:
                excluded = excluded | (raw.to(tl.float32) == tl.cast(call.ignore_index, tl.float32))
        return raw.to(T), excluded, (raw >= 0.0) == 0
    else:
        if call.ignore_index is not None:
            excluded = excluded | (raw.to(tl.int64) == call.ignore_index)
        return tl.where(raw > 0, 1.0, 0.0).to(T), excluded, raw < 0


@triton.jit
def _targets(call, block, place, first, tile: tl.constexpr, EDGE: tl.constexpr):
    if call.crow is None:
        return _dense_targets(call, block, place, first, tile, EDGE)
    else:
        _, _, entries = block
        label, inside, _, shift = place
        y = _sparse_targets(call, entries, label, shift, first, tile)
        excluded = inside == 0
        if call.probabilities is not None:
            excluded = excluded | (y < 0.0)
        return y, excluded, y != y


@triton.jit
def _transformed(call, x, row, exists, place, T: tl.constexpr):
    """Return scale * x + offsets."""
    label, inside, _, _ = place
    s = x * logit_scale(call, T) + number(call.numbers.offset, T)
    if call.row_offset is not None:
        s += tl.load(call.row_offset + row * call.row_offset_stride, mask=exists, other=0.0)[:, None]
    if call.label_offset is not None:
        s += tl.load(call.label_offset + label, mask=inside, other=0.0)
    return s


@triton.jit
def logit_scale(call, T: tl.constexpr):
    if call.scale is not None:
        return tl.load(call.scale)
    else:
        return number(call.numbers.scale, T)


@triton.jit
def label_parameter(call, place, T: tl.constexpr):
    """Return the labels' parameters, for functors that read them."""
    label, inside, _, _ = place
    parameter = tl.full(label.shape, 1.0, T)
    if call.label_parameter is not None:
        parameter = tl.load(call.label_parameter + label, mask=inside, other=1.0)
    return parameter


@triton.jit
def read(call, block, first, tile: tl.constexpr, EDGE: tl.constexpr):
    """Read a block's tile at column ``first``: x (the raw logits), s, y, w, valid, and its place.

    Elements that are not valid are excluded as functors expect it. ``EDGE``: the tile may have elements outside its
    rows.
    """
    T: tl.constexpr = tile.dtype
    R: tl.constexpr = tile.rows
    C: tl.constexpr = tile.columns
    row, exists, _ = block
    place = _places(call, block, first, tile, EDGE)
    label, inside, whole, shift = place
    offsets = _offsets(row, shift, label, first, call.logits_row, call.logits_label, tile, tile.wide)
    x = _load(call.logits, offsets, inside, whole, tile.wide, EDGE).to(T)
    y, excluded, spoiled = _targets(call, block, place, first, tile, EDGE)
    s = _transformed(call, x, row, exists, place, T)
    s = tl.where(spoiled, nan_of(s), s)
    w = tl.full([R, C], 1.0, T)
    if call.weight is not None:
        w = tl.load(call.weight + label, mask=inside, other=0.0)
    if tile.crosses_rows:
        w = w * row_weight(call, row, exists, T)[:, None]
    if tile.soft and not tile.second_logits:
        y = y * number(call.numbers.smooth_slope, T) + number(call.numbers.smooth_floor, T)
    valid = excluded == 0
    if tile.softmax_over_labels:
        s = tl.where(valid, s, float("-inf"))
    else:
        valid = valid & (w != 0.0)
        s = tl.where(valid, s, 0.0)
    return x, s, tl.where(valid, y, 0.0), tl.where(valid, w, 0.0), valid, place


@triton.jit
def finish_gradient(g, valid, live):
    """Finish the gradients of a tile before they are summed and stored; all gradients pass here.

    Excluded labels, and rows that are not ``live``, get exactly 0.
    """
    return tl.where(valid & live[:, None], g, 0.0)
