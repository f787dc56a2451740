#include "kernels/base/permutation.h"

#include <cmath>
#include <vector>

#include "gmock/gmock.h"

namespace vitscale {
namespace {

TEST(KeyedPermutationTest, IsABijectionForEverySize) {
  for (uint64_t n : {1, 2, 3, 4, 5, 7, 8, 9, 100, 255, 256, 257, 1000, 4096, 60000}) {
    const KeyedPermutation permutation(3, 1, n);
    std::vector<bool> seen(n);
    for (uint64_t i = 0; i < n; ++i) {
      const uint64_t value = permutation.At(i);
      ASSERT_LT(value, n);
      ASSERT_FALSE(seen[value]) << n << " " << i;
      seen[value] = true;
    }
  }
}

TEST(KeyedPermutationTest, LargeSizesStayInRange) {
  const uint64_t n = (uint64_t{1} << 40) + 12345;
  const KeyedPermutation permutation(3, 1, n);
  for (uint64_t i : {uint64_t{0}, uint64_t{1}, n / 2, n - 1}) EXPECT_LT(permutation.At(i), n);
}

int FixedPlaces(const KeyedPermutation& a, const KeyedPermutation& b) {
  int same = 0;
  for (uint64_t i = 0; i < a.size(); ++i) same += a.At(i) == b.At(i);
  return same;
}

// Two independent random permutations agree in one place on average (Poisson with mean 1).
TEST(KeyedPermutationTest, SeedsAndEpochsGiveUnrelatedOrders) {
  const KeyedPermutation base(1, 0, 10000);
  EXPECT_LT(FixedPlaces(base, KeyedPermutation(1, 1, 10000)), 10);
  EXPECT_LT(FixedPlaces(base, KeyedPermutation(2, 0, 10000)), 10);
  EXPECT_EQ(FixedPlaces(base, KeyedPermutation(1, 0, 10000)), 10000);
}

// Over many keys each entry comes first equally often: chi-square with 9 degrees of freedom, 99.99
// % point 33.7.
TEST(KeyedPermutationTest, EveryEntryComesFirstEquallyOften) {
  constexpr int kKeys = 20000, kSize = 10;
  int hits[kSize] = {};
  for (int key = 0; key < kKeys; ++key) ++hits[KeyedPermutation(key, 0, kSize).At(0)];
  double chi_square = 0;
  const double expected = kKeys / double{kSize};
  for (int count : hits) chi_square += (count - expected) * (count - expected) / expected;
  EXPECT_LT(chi_square, 33.7);
}

// Neighbours are not kept together: the mean distance of two random entries is n / 3, with standard
// deviation n / sqrt(18 n) for the mean of n of them.
TEST(KeyedPermutationTest, NeighboursAreScattered) {
  constexpr uint64_t kSize = 60000;
  const KeyedPermutation permutation(1, 0, kSize);
  double distance = 0;
  for (uint64_t i = 0; i + 1 < kSize; ++i) {
    distance += std::abs(static_cast<double>(permutation.At(i)) -
                         static_cast<double>(permutation.At(i + 1)));
  }
  EXPECT_NEAR(distance / kSize, kSize / 3.0, 5 * kSize / std::sqrt(18.0 * kSize));
}

}  // namespace
}  // namespace vitscale
