#include "kernels/base/random.h"

#include <set>

#include "gmock/gmock.h"

namespace vitscale {
namespace {

TEST(RandomIdTest, HasTheLengthAndAlphabetAskedFor) {
  auto random = SeededRandom(1);
  for (int characters : {1, 12, 43}) {
    EXPECT_THAT(RandomId(*random, characters),
                testing::MatchesRegex("[a-z0-9]{" + std::to_string(characters) + "}"));
  }
}

TEST(RandomIdTest, IdsDoNotRepeat) {
  std::set<std::string> seen;
  for (int i = 0; i < 1000; ++i) seen.insert(RandomId(SystemRandom(), 12));
  EXPECT_EQ(seen.size(), 1000u);
}

TEST(SeededRandomTest, SameSeedSameSequence) {
  auto a = SeededRandom(5), b = SeededRandom(5), c = SeededRandom(6);
  const uint64_t first = a->Next();
  EXPECT_EQ(first, b->Next());
  EXPECT_NE(first, c->Next());
  EXPECT_NE(first, a->Next());
}

TEST(RandomUniformTest, StaysBelowOne) {
  auto random = SeededRandom(1);
  for (int i = 0; i < 1000; ++i) {
    const double value = RandomUniform(*random);
    EXPECT_GE(value, 0.0);
    EXPECT_LT(value, 1.0);
  }
}

}  // namespace
}  // namespace vitscale
