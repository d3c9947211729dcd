// A grid that strides over units in any order. A unit is one tile of one row.
#pragma once

#include "block_reduce.cuh"
#include "feed.cuh"
#include "loss_traits.h"

namespace mlloss {
namespace cuda {

// The minimum of blocks per multiprocessor limits the registers of a thread, so that enough threads run to hide the
// latency of loads.
template <class Loss, class In>
constexpr int kUnitBlocks = kRegisterPressure<Loss> > 0 || sizeof(In) == 8 ? 1 : 2;
// The minimum for group losses, which have separate kernels for statistics and gradients.
template <class Loss, class In>
constexpr int kGroupUnitBlocks = sizeof(In) == 4 && MLLOSS_CAPABILITY < 100 ? (kRegisterPressure<Loss> > 0 ? 2 : 3)
                                                                            : (kRegisterPressure<Loss> > 1 ? 1 : 2);

struct Units {
  int64_t first_row, rows;
  int tiles;  // per row
  int chunks_per_tile;
  int64_t step_rows;  // the grid has step_rows * tiles + step_tiles blocks; the two save a division per unit
  int step_tiles;
};

// Calls f(row, tile) for each unit of this block.
template <class F>
MLLOSS_DEVICE void for_units(const Units& units, F f) {
  int64_t row = blockIdx.x / static_cast<unsigned>(units.tiles);
  int tile = static_cast<int>(blockIdx.x % static_cast<unsigned>(units.tiles));
  while (row < units.rows) {
    f(units.first_row + row, tile);
    row += units.step_rows;
    tile += units.step_tiles;
    if (tile >= units.tiles) {
      tile -= units.tiles;
      ++row;
    }
  }
}

template <class In>
MLLOSS_DEVICE Tile<In> tile_of(const Units& units, const LogitsRow<In>& row, int64_t r, int tile) {
  return Tile<In>(row, tile, units.tiles, units.chunks_per_tile, static_cast<uint32_t>(r * units.tiles + tile));
}

}  // namespace cuda
}  // namespace mlloss
