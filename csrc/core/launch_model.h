// A model of a plan's time, in closed form. It only predicts: no rate and no plan was measured.
//
// The time of a multiprocessor for a row, or of a kernel for its tiles, is that of the busiest resource (memory, issue
// slots, special functions) and of the waits that nothing hides. Targets are taken as sparse, and their bytes as 0.
#pragma once

#include <algorithm>
#include <cmath>
#include <numeric>

#include "device_facts.h"
#include "launch_types.h"

namespace mlloss {

// The work of a typical row-wise loss, by the machine code of ZLPR.
struct ElementCost {
  double sums, gradient;  // instructions an element
  double special;         // special functions an element, in each of the two
};

inline ElementCost cost_of(DType dtype) {
  if (dtype == DType::kDouble) return {60.0, 60.0, 2.0};
  return dtype == DType::kFloat ? ElementCost{4.9, 5.1, 1.0} : ElementCost{5.1, 5.6, 1.0};
}

constexpr double kRowInstructions = 112.0;   // instructions of each warp for a row, besides its elements
constexpr double kLanes = 128.0;             // instructions of threads that a multiprocessor starts in a clock
constexpr double kSpecialLanes = 16.0;       // special functions that it starts in a clock
constexpr double kSmBytesPerClock = 64.0;    // bytes that enter it in a clock, at most
constexpr double kWarpsForAllSlots = 16.0;   // warps that fill its issue slots
constexpr double kUnitThreadsPerSm = 512.0;  // threads of kernels over units that it runs at once
constexpr double kUnitChunksInFlight = 3.0;  // chunks that one of these threads loads at once
constexpr double kUnitBytesInFlight = kUnitThreadsPerSm * kUnitChunksInFlight * kChunkBytes;
constexpr double kPacketBytes = 16.0;   // bytes that a block of a team reads from each of the others
constexpr double kNearTheFloor = 0.95;  // the least fraction of a plan that counts as bound by bandwidth

// The time in ns that a multiprocessor's resources are busy.
struct Busy {
  double memory, issue, special;

  double most() const { return std::max({memory, issue, special}); }
};

inline Busy busy_for(double elements, double bytes, double instructions, double special, double bytes_per_ns,
                     const DeviceRates& rates) {
  return {bytes / bytes_per_ns, elements * instructions / (kLanes * rates.clock),
          elements * special / (kSpecialLanes * rates.clock)};
}

// The time beyond the floor, by its cause.
class LostTime {
 public:
  void add(Bound bound, double time) { times_[static_cast<int>(bound)] += time; }
  void add_excess(const Busy& busy, double times = 1.0) {
    const Bound of = busy.issue > busy.special ? Bound::kInstructions : Bound::kSpecialFunctions;
    add(of, times * (busy.most() - busy.memory));
  }
  // Counts the rest of the time as bandwidth: memory or the second-level cache need it beyond the floor.
  Prediction prediction(double floor, double time, double in_flight) {
    add(Bound::kBandwidth, time - floor - std::accumulate(times_, times_ + kCount, 0.0));
    const int most = static_cast<int>(std::max_element(times_, times_ + kCount) - times_);
    return {floor / time, static_cast<int64_t>(in_flight),
            floor >= kNearTheFloor * time ? Bound::kBandwidth : static_cast<Bound>(most)};
  }

 private:
  static constexpr int kCount = static_cast<int>(Bound::kLaunches) + 1;
  double times_[kCount] = {};
};

inline double bytes_of_logits(const Problem& problem, int64_t rows) {
  return static_cast<double>(rows) * static_cast<double>(problem.labels) * static_cast<double>(bytes_of(problem.dtype));
}

// ---- team -------------------------------------------------------------------------------------------

struct Round {
  double time;
  Busy busy;
};

// In a round, each of `teams` teams processes one row, which is a chain of waits and work. A multiprocessor that
// several teams share does the work of its busiest resource for all of them, and waits only while the last chain is
// alone. This lies between teams in lock step and teams that overlap fully.
inline Round round_of(const Problem& problem, const LaunchPlan& plan, int64_t teams, const DeviceFacts& facts,
                      const DeviceRates& rates) {
  const ElementCost cost = cost_of(problem.dtype);
  const double passes = problem.gradient ? 2.0 : 1.0, warps = plan.threads / kWarpThreads;
  const double blocks = static_cast<double>(teams * plan.team);
  const double processors = std::min<double>(facts.sm_count, blocks);
  const double blocks_each = blocks / processors;
  const double together = std::min<double>(blocks_each, static_cast<double>(teams));  // teams on a multiprocessor
  const double bandwidth = std::min(rates.bytes_per_ns / processors, kSmBytesPerClock * rates.clock);
  // All lanes of a warp issue what one of them does. Some multiprocessors have a block more than others.
  const double steps = static_cast<double>(divide_up(plan.chunks_per_warp, kWarpThreads));
  const double elements = warps * steps * kWarpThreads * static_cast<double>(chunk_width(problem.dtype));
  const double instructions = cost.sums + (problem.gradient ? cost.gradient : 0.0);
  const double bytes = passes * bytes_of_logits(problem, 1) / plan.team, fullest = std::ceil(blocks_each);
  Busy busy = busy_for(fullest * elements, blocks_each * bytes, instructions, passes * cost.special, bandwidth, rates);
  busy.issue += fullest * warps * kRowInstructions * kWarpThreads / (kLanes * rates.clock);
  // A team by itself leaves issue slots empty. A block of one warp does alone what several share between the barriers.
  const double slots = std::min(1.0, warps * (fullest / together) / kWarpsForAllSlots);
  const double work = std::max(busy.issue / slots, busy.special) / together;
  const double packets = kPacketBytes * plan.team * plan.team / rates.l2_bytes_per_ns;
  const double join = plan.team > 1 ? rates.join + packets : 0.0;
  const double barriers = warps > 1.0 ? rates.barriers : 2.0 * rates.barriers;
  const double chain = rates.latency + busy.memory / together + work + barriers + join;
  return {chain + busy.most() * (together - 1.0) / together, busy};
}

inline Prediction predict_team(const Problem& problem, const LaunchPlan& plan, const DeviceFacts& facts) {
  const DeviceRates rates = rates_of(facts);
  const int64_t teams = plan.blocks / plan.team, rows = std::max<int64_t>(1, problem.rows);
  const Round whole = round_of(problem, plan, teams, facts, rates);
  const double rounds = static_cast<double>(rows) / static_cast<double>(teams);
  double time = static_cast<double>(rows / teams) * whole.time;
  if (rows % teams > 0) time += round_of(problem, plan, rows % teams, facts, rates).time;
  LostTime lost;
  lost.add(Bound::kLaunches, rates.launch);
  lost.add(Bound::kWaves, time - rounds * whole.time);
  lost.add(Bound::kLatency, rounds * (whole.time - whole.busy.most()));
  lost.add_excess(whole.busy, rounds);
  const double passes = problem.gradient ? 2.0 : 1.0;
  const double floor = passes * bytes_of_logits(problem, problem.rows) / rates.bytes_per_ns;
  const double blocks_each = std::max(1.0, static_cast<double>(plan.blocks) / facts.sm_count);
  return lost.prediction(floor, rates.launch + time, blocks_each * bytes_of_logits(problem, 1) / plan.team);
}

// ---- units and split --------------------------------------------------------------------------------

// Describes a kernel over units. All bytes that it moves pass the second-level cache, and some of them memory.
struct UnitKernel {
  double elements, read, moved, memory, instructions, special;
};

// Returns the kernel's time. A block takes one unit after another, and waits for each of a unit's loads, of which it
// has a few in flight. The last units leave multiprocessors idle.
inline double time_of(const UnitKernel& kernel, const LaunchPlan& plan, double units, const DeviceFacts& facts,
                      const DeviceRates& rates, LostTime& lost) {
  const double slots = std::max(1.0, facts.sm_count * kUnitThreadsPerSm / plan.threads);
  const double rounds = units / slots, processors = std::min(1.0, rounds) * facts.sm_count;
  Busy busy = busy_for(kernel.elements / processors, kernel.memory, kernel.instructions, kernel.special,
                       rates.bytes_per_ns, rates);
  busy.issue += units / processors * plan.threads * kRowInstructions / (kLanes * rates.clock);
  const double in_flight = plan.threads * kUnitChunksInFlight * kChunkBytes;
  const double loads = rounds * std::max(1.0, kernel.read / units / in_flight) * rates.latency;
  const double work = std::max({busy.most(), loads, kernel.moved / rates.l2_bytes_per_ns});
  const double tail = rounds > 1.0 ? work * (std::ceil(rounds) / rounds - 1.0) : 0.0;
  lost.add(Bound::kLaunches, rates.launch);
  lost.add(Bound::kWaves, tail);
  lost.add(Bound::kLatency, rates.latency + std::max(0.0, loads - busy.most()));
  lost.add_excess(busy);
  return rates.launch + rates.latency + work + tail;
}

// Predicts one kernel that reads and writes: an element-wise loss, or a gradient from known coefficients.
inline Prediction predict_units(const Problem& problem, const LaunchPlan& plan, const DeviceFacts& facts) {
  const DeviceRates rates = rates_of(facts);
  const ElementCost cost = cost_of(problem.dtype);
  const double read = bytes_of_logits(problem, problem.rows), moved = read * (problem.gradient ? 2.0 : 1.0);
  const double elements = read / static_cast<double>(bytes_of(problem.dtype));
  const UnitKernel kernel{elements, read, moved, moved, cost.sums + cost.gradient, 2.0 * cost.special};
  LostTime lost;
  const double units = std::max(1.0, static_cast<double>(problem.rows * plan.tiles));
  const double time = time_of(kernel, plan, units, facts, rates, lost);
  return lost.prediction(moved / rates.bytes_per_ns, time, kUnitBytesInFlight);
}

// Predicts two kernels for each wave of rows. The second read comes from the second-level cache if a wave fits there.
inline Prediction predict_split(const Problem& problem, const LaunchPlan& plan, const DeviceFacts& facts) {
  const DeviceRates rates = rates_of(facts);
  const ElementCost cost = cost_of(problem.dtype);
  const int64_t waves = std::max<int64_t>(1, divide_up(problem.rows, std::max<int64_t>(1, plan.rows_per_wave)));
  const double bytes = bytes_of_logits(problem, problem.rows) / static_cast<double>(waves);
  const double elements = bytes / static_cast<double>(bytes_of(problem.dtype));
  const double units = std::max(1.0, static_cast<double>(problem.rows * plan.tiles) / static_cast<double>(waves));
  const double again = bytes <= static_cast<double>(l2_share(facts)) ? 0.0 : bytes;
  const UnitKernel sums{elements, bytes, bytes, bytes, cost.sums, cost.special};
  const UnitKernel gradient{elements, bytes, 2.0 * bytes, bytes + again, cost.gradient, cost.special};
  LostTime lost;
  double time = time_of(sums, plan, units, facts, rates, lost);
  if (problem.gradient) time += time_of(gradient, plan, units, facts, rates, lost);
  return lost.prediction((problem.gradient ? 2.0 : 1.0) * bytes / rates.bytes_per_ns, time, kUnitBytesInFlight);
}

inline Prediction predict(const Problem& problem, const LaunchPlan& plan, const DeviceFacts& facts) {
  if (plan.strategy == Strategy::kTeam) return predict_team(problem, plan, facts);
  if (plan.strategy == Strategy::kSplit) return predict_split(problem, plan, facts);
  return predict_units(problem, plan, facts);
}

}  // namespace mlloss
