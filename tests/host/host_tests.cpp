// C++ tests that need neither torch nor a GPU: the numerics, compared with the C library in double.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>

#include "core/numerics.h"
#include "cpu/dtypes.h"
#include "losses/powers.h"

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
  const double error = worst([](float x) { return mlloss::exponential(x); }, [](double x) { return std::exp(x); },
                             -86.0f, mlloss::kLargestExponent);
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
  const double error = worst([](float d) { return mlloss::one_minus_exp_near(d); },
                             [](double d) { return -std::expm1(-d); }, 1e-6f, mlloss::kNear<float>);
  std::printf("one_minus_exp_near: %.2f ulp\n", error);
  expect(error < 4.0, "one_minus_exp_near is within 4 ulp", error);
  expect(mlloss::one_minus_exp_near(0.0f) == 0.0f, "1 - e^0 is 0", 0);
}

// The argument is a sum without its 1, from tiny values up to the largest that sixteen terms reach.
void test_logarithm_of_one_plus() {
  const double error = std::max(worst([](float q) { return mlloss::logarithm_of_one_plus(q); },
                                      [](double q) { return std::log1p(q); }, 1e-30f, 1.0f),
                                worst([](float q) { return mlloss::logarithm_of_one_plus(q); },
                                      [](double q) { return std::log1p(q); }, 1.0f, 65536.0f));
  std::printf("logarithm_of_one_plus: %.2f ulp\n", error);
  expect(error < 4.0, "logarithm_of_one_plus is within 4 ulp", error);
  expect(mlloss::logarithm_of_one_plus(0.0f) == 0.0f, "log(1 + 0) is 0", 0);
  expect(std::isnan(mlloss::logarithm_of_one_plus(NAN)), "log(1 + NaN) is NaN", 0);
  const auto lost = [](double u) { return -std::log1p(-u); };
  const double small = worst([](float u) { return mlloss::minus_log_of(u, 1.0f - u); }, lost, 1e-20f, 0.5f);
  const double large = worst([](float u) { return mlloss::minus_log_of(u, 1.0f - u); }, lost, 0.5f, 0.9999f);
  std::printf("minus_log_of: %.2f ulp\n", std::max(small, large));
  expect(std::max(small, large) < 4.0, "minus_log_of is within 4 ulp", std::max(small, large));
  expect(mlloss::minus_log_of(0.0f, 1.0f) == 0.0f, "-log(1 - 0) is 0", 0);
  for (const float rest : {1.0000001f, 1.0000002f, 1.01f, 1.06f}) {
    expect(mlloss::minus_log_of(1e-8f, rest) == 1e-8f, "a rest above 1 counts as 1", rest);
  }
}

void test_tails() {
  const auto sigmoid = [](double z) { return 1.0 / (1.0 + std::exp(-z)); };
  const double alone = worst([](float z) { return mlloss::logistic_tails(z).sigmoid; }, sigmoid, -80.0f, 80.0f);
  expect(alone < 4.0, "logistic_tails is within 4 ulp", alone);
  constexpr float kInf = std::numeric_limits<float>::infinity();
  expect(mlloss::logistic_tails(kInf).sigmoid == 1.0f && mlloss::logistic_tails(kInf).sigmoid_negated == 0.0f,
         "tails at infinity are 1 and 0", 0);
  expect(std::isnan(mlloss::logistic_tails(NAN).sigmoid), "tails of NaN are NaN", 0);
}

void test_negated_power() {
  const double error =
      worst([](float z) { return mlloss::negated_power(z); }, [](double z) { return std::exp(-z); }, -80.0f, 80.0f);
  expect(error < 3.0, "negated_power is within 3 ulp", error);
  constexpr float kInf = std::numeric_limits<float>::infinity();
  expect(mlloss::negated_power(kInf) == 0.0f, "the power of infinity is 0", 0);
  expect(mlloss::negated_power(-kInf) == mlloss::negated_power(-87.0f), "a power is at most e^87", 0);
}

void test_order() {
  const float numbers[] = {0.0f, 1e-40f, 1e-20f, 1.0f, 87.0f, 3e38f, std::numeric_limits<float>::infinity()};
  for (const float a : numbers) {
    for (const float b : numbers) {
      expect(mlloss::smaller(a, b) == std::min(a, b) && mlloss::larger(a, b) == std::max(a, b), "order", a);
      expect(mlloss::smaller(-a, b) == std::min(-a, b) && mlloss::larger(a, -b) == std::max(a, -b), "signs", a);
    }
  }
}

void test_sigmoid_and_slope() {
  const auto sigmoid = [](double z) { return 1.0 / (1.0 + std::exp(-z)); };
  const double errors[] = {worst([](float z) { return mlloss::sigmoid_and_slope(z).sigmoid; }, sigmoid, -80.0f, 80.0f),
                           worst([](float z) { return mlloss::sigmoid_and_slope(z).slope; },
                                 [&](double z) { return sigmoid(z) * sigmoid(-z); }, -80.0f, 80.0f)};
  std::printf("sigmoid and slope: %.2f, %.2f ulp\n", errors[0], errors[1]);
  expect(errors[0] < 4.0, "the sigmoid is within 4 ulp", errors[0]);
  expect(errors[1] < 5.0, "the slope is within 5 ulp at both ends", errors[1]);
  for (const float z : {-std::numeric_limits<float>::infinity(), std::numeric_limits<float>::infinity()}) {
    const auto l = mlloss::sigmoid_and_slope(z);
    expect(l.sigmoid == (z > 0.0f ? 1.0f : 0.0f) && l.slope == 0.0f, "an infinite logit has a slope of 0", z);
  }
  expect(std::isnan(mlloss::sigmoid_and_slope(NAN).slope), "the slope of NaN is NaN", 0);
}

void test_whole_powers() {
  for (int n = 0; n <= 4; ++n) {
    const mlloss::WholePower<float> power(n);
    for (float x : {0.0f, 0.25f, 0.5f, 1.0f}) {
      expect(power.raised(x, power.lower(x)) == std::pow(x, static_cast<float>(n)), "x^n by products", n);
    }
    expect(std::isnan(power.raised(NAN, power.lower(NAN))), "NaN^n is NaN", n);
    expect(n == 0 || power.lower(0.5f) == std::pow(0.5f, static_cast<float>(n - 1)), "x^(n-1) by products", n);
    expect(mlloss::is_whole_power(n) && !mlloss::is_whole_power(n + 0.5), "is_whole_power recognises whole numbers", n);
  }
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

// Every half is widened and narrowed again; ties round to even.
void test_half() {
  for (uint32_t bits = 0; bits < 0x10000u; ++bits) {
    const mlloss::Half half{static_cast<uint16_t>(bits)};
    const float wide = mlloss::widen(half);
    const uint16_t back = mlloss::narrow<mlloss::Half>(wide).bits;
    const bool nan = (bits & 0x7fffu) > 0x7c00u;
    expect(nan ? std::isnan(wide) && (back & 0x7fffu) > 0x7c00u : back == bits, "half is unchanged by widen and narrow",
           bits);
  }
  expect(mlloss::narrow<mlloss::Half>(2049.0f).bits == mlloss::narrow<mlloss::Half>(2048.0f).bits, "ties to even",
         2049);
  expect(mlloss::narrow<mlloss::Half>(2051.0f).bits == mlloss::narrow<mlloss::Half>(2052.0f).bits, "ties to even",
         2051);
  expect(mlloss::narrow<mlloss::Half>(65519.0f).bits == 0x7bffu, "65519 rounds to the largest half", 65519);
  expect(mlloss::narrow<mlloss::Half>(65520.0f).bits == 0x7c00u, "half overflows to inf", 65520);
  expect(mlloss::narrow<mlloss::Half>(-1e-8f).bits == 0x8000u, "half underflows to -0", -1e-8);
}

void test_bfloat16() {
  for (uint32_t bits = 0; bits < 0x10000u; ++bits) {
    const mlloss::BFloat16 value{static_cast<uint16_t>(bits)};
    const float wide = mlloss::widen(value);
    const uint16_t back = mlloss::narrow<mlloss::BFloat16>(wide).bits;
    expect(std::isnan(wide) ? (back & 0x7fffu) > 0x7f80u : back == bits, "bfloat16 is unchanged by widen and narrow",
           bits);
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
  test_logarithm_of_one_plus();
  test_tails();
  test_negated_power();
  test_order();
  test_sigmoid_and_slope();
  test_whole_powers();
  test_logarithm();
  test_logistic();
  test_half();
  test_bfloat16();
  std::printf(failures ? "%d host tests failed\n" : "host tests passed\n", failures);
  return failures ? 1 : 0;
}
