// The facts about a device that plans depend on, and the rates that the model of launch_model.h assumes for it.
#pragma once

#include <cstdint>
#include <cstring>

namespace mlloss {

struct DeviceFacts {
  int capability;            // 10 * major + minor
  int sm_count;              // streaming multiprocessors
  int threads_per_sm;        // resident threads, at most
  int64_t shared_per_block;  // bytes, with opt-in
  int64_t l2_bytes;
  double bytes_per_ns = 0.0;  // the bandwidth of memory that kernels reach, some 0.9 of the peak; 0 if it is not known
  const char* name = "";
  int reserved = 0;  // multiprocessors that teams of blocks leave to other kernels
};

// Rates of a device: the bandwidths that kernels reach, the clock in GHz, and times in ns.
struct DeviceRates {
  double bytes_per_ns;     // memory
  double l2_bytes_per_ns;  // second-level cache
  double clock;
  double latency;   // from a load to its data
  double join;      // statistics from each block of a team to all others
  double barriers;  // the two barriers of a block for a row, and what one warp does between them
  double launch;    // from the end of one kernel to the first load of the next one
};

struct KnownDevice {
  DeviceFacts facts;
  DeviceRates assumed;
  DeviceRates measured;  // replaces assumed rates; 0 if a rate was not measured
};

// The devices that are known by name. No rate was measured yet: every `measured` is empty, and all plans from this
// table are predictions.
constexpr KnownDevice kKnownDevices[] = {
    {{120, 170, 1536, 101376, int64_t{96} << 20, 1600, "RTX 5090"}, {1600, 5000, 2.40, 800, 450, 150, 2000}, {}},
    {{100, 148, 2048, 232448, int64_t{126} << 20, 6500, "B200"}, {6500, 8000, 1.80, 800, 450, 150, 2000}, {}},
    {{90, 132, 2048, 232448, int64_t{50} << 20, 3000, "H100"}, {3000, 5500, 1.755, 800, 450, 150, 2000}, {}},
    {{90, 132, 2048, 232448, int64_t{50} << 20, 4300, "H200"}, {4300, 5500, 1.755, 800, 450, 150, 2000}, {}},
    {{80, 108, 2048, 166912, int64_t{40} << 20, 1900, "A100"}, {1900, 4000, 1.41, 800, 450, 150, 2000}, {}}};
inline constexpr const KnownDevice& kOldestDevice = kKnownDevices[sizeof(kKnownDevices) / sizeof(KnownDevice) - 1];

// Returns a well-known device of each family, to plan for without a GPU: A100, H100 SXM, B200, RTX 5090. Another
// capability gets the newest family that is not newer than it.
inline DeviceFacts known_device(int capability) {
  for (const KnownDevice& known : kKnownDevices) {
    if (capability >= known.facts.capability) return known.facts;
  }
  return kOldestDevice.facts;
}

// Returns the well-known device of that name, or null.
inline const DeviceFacts* known_device(const char* name) {
  for (const KnownDevice& known : kKnownDevices) {
    if (std::strcmp(name, known.facts.name) == 0) return &known.facts;
  }
  return nullptr;
}

// Returns the table's line for a device: of its family, the one with the nearest bandwidth.
inline const KnownDevice& nearest_device(const DeviceFacts& facts) {
  const int family = known_device(facts.capability).capability;
  const KnownDevice* nearest = nullptr;
  double least = 0.0;
  for (const KnownDevice& known : kKnownDevices) {
    const double difference = known.facts.bytes_per_ns - facts.bytes_per_ns;
    const double distance = facts.bytes_per_ns > 0.0 ? difference * difference : 0.0;
    if (known.facts.capability == family && (!nearest || distance < least)) nearest = &known, least = distance;
  }
  return *nearest;
}

inline DeviceRates rates_of(const DeviceFacts& facts) {
  const KnownDevice& known = nearest_device(facts);
  const DeviceRates &a = known.assumed, &m = known.measured;
  const auto best = [](double measured, double assumed) { return measured > 0.0 ? measured : assumed; };
  return {best(m.bytes_per_ns, facts.bytes_per_ns > 0.0 ? facts.bytes_per_ns : a.bytes_per_ns),
          best(m.l2_bytes_per_ns, a.l2_bytes_per_ns),
          best(m.clock, a.clock),
          best(m.latency, a.latency),
          best(m.join, a.join),
          best(m.barriers, a.barriers),
          best(m.launch, a.launch)};
}

}  // namespace mlloss
