// The chunks of a thread in shared memory, copied ahead of their use. Each slot belongs to one thread, so no barrier is
// needed between a copy, its use and the next copy.
#pragma once

#include "vector_io.cuh"

namespace mlloss {
namespace cuda {

// A chunk that has arrived.
struct Fetched {
  int index;
  uint4 logits;
  SharedAddress targets;  // valid if the targets were copied
};

// The memory of a block: `chunks` times 16 bytes, then `chunks` times target_bytes. A thread owns slots number thread,
// thread + threads, ...
class Slots {
 public:
  MLLOSS_DEVICE Slots(const DeviceCall& call, unsigned char* memory, int chunks)
      : target_bytes_(call.target_bytes),
        logits_(shared_address(memory)),
        targets_(shared_address(memory + chunks * 16)) {}

  template <class In>
  MLLOSS_DEVICE void fetch(const LogitsRow<In>& row, int chunk, int slot) const {
    row.fetch(chunk, logits_ + slot * 16, targets_ + slot * target_bytes_);
  }
  MLLOSS_DEVICE Fetched fetched(int chunk, int slot) const {
    return {chunk, load_shared<uint4>(logits_ + slot * 16), targets_ + slot * target_bytes_};
  }

 private:
  const int target_bytes_;
  const SharedAddress logits_, targets_;
};

// Passes any number of chunks through kStages slots per thread. While one chunk is in use, the next ones are in flight.
template <class In>
class Ring {
 public:
  MLLOSS_DEVICE Ring(const DeviceCall& call, unsigned char* memory)
      : slots_(call, memory, kStages * static_cast<int>(blockDim.x)) {}

  // Starts the copies of chunks `first` to `last - 1`, which the block processes.
  MLLOSS_DEVICE void begin(const LogitsRow<In>& row, int first, int last) {
    first_ = first + static_cast<int>(threadIdx.x);
    last_ = last;
    again(row);
  }

  // Starts to copy the same chunks again.
  MLLOSS_DEVICE void again(const LogitsRow<In>& row) const {
    const int step = static_cast<int>(blockDim.x);
#pragma unroll 1
    for (int k = 0; k < kStages - 1; ++k) start(row, first_ + k * step, static_cast<int>(threadIdx.x) + k * step);
  }

  // Calls f(Fetched) for each of this thread's chunks.
  template <class F>
  MLLOSS_DEVICE void run(const LogitsRow<In>& row, F f) const {
    const int step = static_cast<int>(blockDim.x);
    const int mask = kStages * step - 1;  // both are powers of two
    int slot = static_cast<int>(threadIdx.x);
#pragma unroll 1
    for (int chunk = first_; chunk < last_; chunk += step) {
      // The slot of the previous chunk is free again.
      start(row, chunk + (kStages - 1) * step, (slot + (kStages - 1) * step) & mask);
      wait_copies<kStages - 1>();
      f(slots_.fetched(chunk, slot));
      slot = (slot + step) & mask;
    }
  }

 private:
  const Slots slots_;
  int first_ = 0, last_ = 0;

  MLLOSS_DEVICE void start(const LogitsRow<In>& row, int chunk, int slot) const {
    if (chunk < last_) slots_.fetch(row, chunk, slot);
    commit_copies();
  }
};

// Keeps all of a thread's chunks of a row until their gradient has been stored. Each slot then receives its chunk of
// the next row, so that reads and writes overlap.
template <class In>
class ResidentChunks {
 public:
  // The block processes chunks `first` to `first + count - 1` of every row, as far as the row has them.
  MLLOSS_DEVICE ResidentChunks(const DeviceCall& call, unsigned char* memory, int first, int count)
      : slot_count_((count + static_cast<int>(blockDim.x) - 1) / static_cast<int>(blockDim.x)),
        group_((slot_count_ + kGroups - 1) / kGroups),
        slots_(call, memory, count),
        begin_(first),
        first_(first + static_cast<int>(threadIdx.x)),
        last_(first + count) {}

  MLLOSS_DEVICE void begin(const LogitsRow<In>& row) const {
    replace(row, [](int, int) {});
  }

  // Calls f(Fetched) for each of this thread's chunks as they arrive.
  template <class F>
  MLLOSS_DEVICE void run(const LogitsRow<In>& row, F f) const {
    const int last = end_of(row);
    int group = 0, group_begin = first_;
#pragma unroll 1
    for (int chunk = first_; chunk < last; chunk += static_cast<int>(blockDim.x)) {
      if (chunk == group_begin) {
        wait_for(group++);
        group_begin += group_ * static_cast<int>(blockDim.x);
      }
      f(slots_.fetched(chunk, chunk - begin_));
    }
    wait_copies<0>();
  }

  // Does nothing, because the chunks are still in their slots.
  MLLOSS_DEVICE void again(const LogitsRow<In>&) const {}

  // The last visit of a row, in which the chunks of `next` replace its own.
  template <class F>
  MLLOSS_DEVICE void run_and_replace(const LogitsRow<In>& row, const LogitsRow<In>& next, F f) const {
    const int last = end_of(row);
    replace(next, [&](int chunk, int slot) {
      if (chunk < last) f(slots_.fetched(chunk, slot));
    });
  }

 private:
  static constexpr int kGroups = 4;  // a row arrives in groups; the first is processed while the others are in flight
  const int slot_count_, group_;     // slots per thread, slots per group
  const Slots slots_;
  const int begin_, first_, last_;

  MLLOSS_DEVICE int end_of(const LogitsRow<In>& row) const { return row.chunks < last_ ? row.chunks : last_; }

  // Calls before(chunk, slot); then the slot receives that chunk of `row`.
  template <class F>
  MLLOSS_DEVICE void replace(const LogitsRow<In>& row, F before) const {
    const int last = end_of(row), step = static_cast<int>(blockDim.x);
    int groups = 0, group_end = first_ + group_ * step;
#pragma unroll 1
    for (int chunk = first_; chunk < last_; chunk += step) {
      before(chunk, chunk - begin_);
      if (chunk < last) slots_.fetch(row, chunk, chunk - begin_);
      if (chunk + step == group_end) {
        commit_copies();
        ++groups;
        group_end += group_ * step;
      }
    }
    for (; groups < kGroups; ++groups) commit_copies();
  }

  static MLLOSS_DEVICE void wait_for(int group) {
    if (group == 0) return wait_copies<3>();
    if (group == 1) return wait_copies<2>();
    if (group == 2) return wait_copies<1>();
    wait_copies<0>();
  }
};

// A feed for the last visit of a resident row.
template <class In>
struct Replacing {
  const ResidentChunks<In>& chunks;
  const LogitsRow<In>& next;

  template <class F>
  MLLOSS_DEVICE void run(const LogitsRow<In>& row, F f) const {
    chunks.run_and_replace(row, next, f);
  }
};

}  // namespace cuda
}  // namespace mlloss
