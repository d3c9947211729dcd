// The visits of a row by the general team kernel.
#pragma once

#include "general_row.cuh"
#include "loss_traits.h"
#include "row_results.cuh"

namespace mlloss {
namespace cuda {

// The visits of a row, in their order. Most rows need the first and the last one, and kSecondPassSums if the loss has
// such sums.
enum class Visit : int { kSums, kMaxima, kShiftedSums, kSecondPassSums, kGradient, kNone };

// Returns the visit that follows. `again` is true if the sums overflow or vanish with all maxima at 0.
template <class Loss>
MLLOSS_DEVICE Visit visit_after(Visit visit, bool again, bool gradient) {
  if (Loss::kMaxima > 0 && visit == Visit::kSums && again) return Visit::kMaxima;
  if (Loss::kMaxima > 0 && visit == Visit::kMaxima) return Visit::kShiftedSums;
  if (Loss::kSecondPassSums > 0 && visit < Visit::kSecondPassSums) return Visit::kSecondPassSums;
  return gradient && visit != Visit::kGradient ? Visit::kGradient : Visit::kNone;
}

// One visit of a row by one thread: its sums, or its chunks of the gradient.
template <class Loss, class In>
class GeneralVisit {
 public:
  using Stats = StatisticsOf<Loss, float>;
  static constexpr int V = kWidth<In>;

  MLLOSS_DEVICE GeneralVisit(const Loss& loss, const SharedResults<Loss>& shared, Visit visit)
      : loss_(loss), shared_(shared), visit_(visit) {
    if (visit == Visit::kShiftedSums) stats_.maxima = shared.stats.maxima;
    if (visit == Visit::kSecondPassSums) input_ = Loss::second_pass_input(shared.stats);
  }

  MLLOSS_DEVICE void add_chunk(const RowChunk<In>& chunk, const GradientRow<In>& memory) {
    if (visit_ == Visit::kSums || visit_ == Visit::kGradient) {
      with_kind(chunk, [&](auto kind, const RowChunk<In>&) {
        if (visit_ == Visit::kSums) {
          add_sums(kind, chunk);
        } else {
          store_gradient(kind, chunk, memory);
        }
      });
    } else if (Loss::kSecondPassSums == 0 || visit_ != Visit::kSecondPassSums || chunk.soft || chunk.positive != 0) {
      // The term of a negative in second-pass sums is 0.
      RowChunk<In> rest = chunk;
#pragma unroll 1
      for (int i = 0; i < V; ++i) {
        add_rarely(general_element(rest, 0));
        rest.advance();
      }
    }
  }

  // Joins the sums of all threads of the team, and publishes what the next visit needs. The first block of the team
  // adds the row's value to `total`.
  template <class TeamOfRow, class Results>
  MLLOSS_DEVICE void finish(int row, TeamOfRow& team, const Results& results, double* total) {
    if constexpr (Loss::kMaxima > 0) {
      if (visit_ == Visit::kMaxima) {
        stats_.maxima = join_all<Maximum>(stats_.maxima, Loss::initial_maximum(), team);
        return results.publish(stats_, RowMode::kAgain);
      }
    }
    if constexpr (Loss::kSecondPassSums > 0) {
      if (visit_ == Visit::kSecondPassSums) {
        second_sums_ = join_all<Sum>(second_sums_, 0.0f, team);
        if (joins()) results.finalize(row, shared_.stats, second_sums_, total);
        return;
      }
    }
    stats_.sums = join_all<Sum>(stats_.sums, 0.0f, team);
    if (!joins()) return;
    bool again = false;
    if (visit_ == Visit::kSums) {
      again = loss_.needs_max_shift(stats_.sums);
      stats_.maxima = Loss::first_maxima(stats_.sums);
    }
    if (again || Loss::kSecondPassSums > 0) {
      results.publish(stats_, again ? RowMode::kAgain : RowMode::kUsual);
    } else {
      results.finalize(row, stats_, {}, total);
    }
  }

 private:
  const Loss& loss_;
  const SharedResults<Loss>& shared_;
  const Visit visit_;
  Stats stats_ = identity<Loss, float>();
  SecondPassSums<Loss, float> second_sums_{};
  decltype(Loss::second_pass_input(Stats{})) input_{};

  static MLLOSS_DEVICE bool joins() { return this_warp() == 0; }

  // Returns the result to warp 0 of each block.
  template <class How, int N, class TeamOfRow>
  static MLLOSS_DEVICE Array<float, N> join_all(const Array<float, N>& mine, float neutral, TeamOfRow& team) {
    const Array<float, N> of_block = join_block<How>(mine, neutral);
    return joins() ? team.template join<How>(of_block, neutral) : of_block;
  }

  template <class Kind>
  MLLOSS_DEVICE void add_sums(Kind kind, const RowChunk<In>& chunk) {
    Array<float, Loss::kSums> of_chunk = loss_.first_sums(prepared<Loss>(element(kind, chunk, 0)));
#pragma unroll
    for (int i = 1; i < V; ++i) add(of_chunk, loss_.first_sums(prepared<Loss>(element(kind, chunk, i))));
    add(stats_.sums, of_chunk);
  }

  template <class Kind>
  MLLOSS_DEVICE void store_gradient(Kind kind, const RowChunk<In>& chunk, const GradientRow<In>& memory) const {
    const auto c = shared_.coefficients;
    const bool zero = shared_.mode == RowMode::kZero;
    float g[V];
#pragma unroll
    for (int i = 0; i < V; ++i) g[i] = zero ? 0.0f : loss_.gradient(element(kind, chunk, i), c);
    clear_excluded(kind, chunk, false, g);
    memory.store(kind, chunk.label, g);
  }

  template <class E>
  MLLOSS_DEVICE void add_rarely(const E& e) {
    if constexpr (Loss::kSecondPassSums > 0) {
      if (visit_ == Visit::kSecondPassSums) {
        return add(second_sums_, loss_.second_pass_sums(e, input_));
      }
    }
    if constexpr (Loss::kMaxima > 0) {
      if (visit_ == Visit::kMaxima) {
        loss_.maxima(e, stats_.maxima);
      } else {
        add(stats_.sums, loss_.sums(e, stats_.maxima));
      }
    }
  }
};

}  // namespace cuda
}  // namespace mlloss
