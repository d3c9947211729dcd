// C++ tests that need neither torch nor a GPU: the numerics, against the C library in double.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>

#include "core/numerics.h"
#include "cpu/dtypes.h"

namespace {

int failures = 0;

void expect(bool holds, const char* what, double at) {
  if (holds) return;
  ++failures;
  std::printf("FAILED: %s at %g\n", what, at);
}

double ulps(float got, double exact) {
  const float rounded = std::fabs(static_cast<float>(exact));
  const double step = std::nextafter(rounded, std::numeric_limits<float>::infinity()) - rounded;
  return std::fabs(got - exact) / step;
}

template <class F, class G>
double worst(F f, G exact, float low, float high) {
  double most = 0.0;
  constexpr int kSteps = 2000000;
  for (int i = 0; i <= kSteps; ++i) {
    const float x = low + (high - low) * (static_cast<float>(i) / kSteps);
    const double error = ulps(f(x), exact(static_cast<double>(x)));
    if (error > most) most = error;
  }
  return most;
}

void test_exponential() {
  const double error =
      worst([](float x) { return mlloss::exponential(x); }, [](double x) { return std::exp(x); }, -86.0f, 88.7f);
  std::printf("exponential: %.2f ulp\n", error);
  expect(error < 2.0, "exponential is within 2 ulp", error);
  constexpr float kInf = std::numeric_limits<float>::infinity();
  expect(mlloss::exponential(-kInf) == 0.0f, "exp(-inf) is 0", 0);
  expect(mlloss::exponential(-1000.0f) == 0.0f, "exp underflows to 0", -1000);
  expect(mlloss::exponential(89.0f) == kInf, "exp overflows to inf", 89);
  expect(mlloss::exponential(kInf) == kInf, "exp(inf) is inf", 0);
  expect(std::isnan(mlloss::exponential(NAN)), "exp(NaN) is NaN", 0);
  expect(mlloss::exponential(0.0f) == 1.0f, "exp(0) is 1", 0);
}

void test_one_minus_exp() {
  const auto exact = [](double d) { return -std::expm1(-d); };
  const double error = std::max(worst([](float d) { return mlloss::one_minus_exp(d); }, exact, 1e-6f, 1.0f),
                                worst([](float d) { return mlloss::one_minus_exp(d); }, exact, 1.0f, 90.0f));
  std::printf("one_minus_exp: %.2f ulp\n", error);
  expect(error < 4.0, "one_minus_exp is within 4 ulp", error);
  constexpr float kInf = std::numeric_limits<float>::infinity();
  expect(mlloss::one_minus_exp(0.0f) == 0.0f, "1 - e^0 is 0", 0);
  expect(mlloss::one_minus_exp(kInf) == 1.0f, "1 - e^-inf is 1", 0);
  expect(std::isnan(mlloss::one_minus_exp(NAN)), "1 - e^NaN is NaN", 0);
}

void test_logarithm() {
  const double error =
      worst([](float x) { return mlloss::logarithm(x); }, [](double x) { return std::log(x); }, 1e-6f, 0.9f);
  std::printf("logarithm: %.2f ulp\n", error);
  expect(error < 4.0, "logarithm is within 4 ulp below 0.9", error);
  expect(std::isinf(mlloss::logarithm(0.0f)), "log(0) is -inf", 0);
}

void test_logistic() {
  const auto part = [](int which) {
    return [which](float z) {
      const auto l = mlloss::logistic(z);
      return which == 0 ? l.sigmoid : which == 1 ? l.sigmoid_negated : which == 2 ? l.softplus : l.softplus_negated;
    };
  };
  const auto sigmoid = [](double z) { return 1.0 / (1.0 + std::exp(-z)); };
  const auto softplus = [](double z) { return z > 0 ? z + std::log1p(std::exp(-z)) : std::log1p(std::exp(z)); };
  const double errors[] = {worst(part(0), sigmoid, -80.0f, 80.0f),
                           worst(
                               part(1), [&](double z) { return sigmoid(-z); }, -80.0f, 80.0f),
                           worst(part(2), softplus, -80.0f, 80.0f),
                           worst(part(3), [&](double z) { return softplus(-z); }, -80.0f, 80.0f)};
  for (const double error : errors) {
    std::printf("logistic: %.2f ulp\n", error);
    expect(error < 5.0, "logistic is within 5 ulp", error);
  }
  constexpr float kInf = std::numeric_limits<float>::infinity();
  expect(mlloss::logistic(kInf).softplus_negated == 0.0f, "softplus(-inf) is 0", 0);
  expect(mlloss::logistic(-kInf).sigmoid == 0.0f, "sigmoid(-inf) is 0", 0);
  expect(mlloss::logistic(-kInf).softplus_negated == kInf, "softplus(inf) is inf", 0);
  expect(std::isnan(mlloss::logistic(NAN).sigmoid), "sigmoid(NaN) is NaN", 0);
  expect(std::isnan(mlloss::logistic(NAN).softplus), "softplus(NaN) is NaN", 0);
}

// Every half there is, widened and narrowed again; and ties, which go to even.
void test_half() {
  for (uint32_t bits = 0; bits < 0x10000u; ++bits) {
    const mlloss::Half half{static_cast<uint16_t>(bits)};
    const float wide = mlloss::widen(half);
    const uint16_t back = mlloss::narrow<mlloss::Half>(wide).bits;
    const bool nan = (bits & 0x7fffu) > 0x7c00u;
    expect(nan ? std::isnan(wide) && (back & 0x7fffu) > 0x7c00u : back == bits, "half survives", bits);
  }
  expect(mlloss::narrow<mlloss::Half>(2049.0f).bits == mlloss::narrow<mlloss::Half>(2048.0f).bits, "ties to even",
         2049);
  expect(mlloss::narrow<mlloss::Half>(2051.0f).bits == mlloss::narrow<mlloss::Half>(2052.0f).bits, "ties to even",
         2051);
  expect(mlloss::narrow<mlloss::Half>(65519.0f).bits == 0x7bffu, "the largest half", 65519);
  expect(mlloss::narrow<mlloss::Half>(65520.0f).bits == 0x7c00u, "half overflows to inf", 65520);
  expect(mlloss::narrow<mlloss::Half>(-1e-8f).bits == 0x8000u, "half underflows to -0", -1e-8);
}

void test_bfloat16() {
  for (uint32_t bits = 0; bits < 0x10000u; ++bits) {
    const mlloss::BFloat16 value{static_cast<uint16_t>(bits)};
    const float wide = mlloss::widen(value);
    const uint16_t back = mlloss::narrow<mlloss::BFloat16>(wide).bits;
    expect(std::isnan(wide) ? (back & 0x7fffu) > 0x7f80u : back == bits, "bfloat16 survives", bits);
  }
  expect(mlloss::narrow<mlloss::BFloat16>(257.0f).bits == mlloss::narrow<mlloss::BFloat16>(256.0f).bits, "ties to even",
         257);
  expect(mlloss::narrow<mlloss::BFloat16>(259.0f).bits == mlloss::narrow<mlloss::BFloat16>(260.0f).bits, "ties to even",
         259);
}

}  // namespace

int main() {
  test_exponential();
  test_one_minus_exp();
  test_logarithm();
  test_logistic();
  test_half();
  test_bfloat16();
  std::printf(failures ? "%d host tests failed\n" : "host tests passed\n", failures);
  return failures ? 1 : 0;
}
