#include "proto/spec/difference.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/status_matchers.h"

namespace vitscale {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

TEST(DifferenceTest, FieldsThatDifferAreNamedByTheirPath) {
  const auto differences =
      SpecDifferences("name: a\noptimizer: {lr: 0.001}\nevals: [{name: x}]\nseed: 1\n",
                      "name: a\noptimizer: {lr: 0.002}\nevals: [{name: y}, {name: z}]\n");
  ASSERT_THAT(differences, IsOk());
  EXPECT_THAT(*differences,
              ElementsAre("evals[0].name: was x, is y", "evals[1].name: was not given, is z",
                          "optimizer.lr: was 0.001, is 0.002", "seed: was 1, is not given"));
}

TEST(DifferenceTest, TheSameJobInAnotherOrderDoesNotDiffer) {
  EXPECT_THAT(*SpecDifferences("a: 1\nb: {c: 2, d: 3}\n", "b: {d: 3, c: 2}\na: 1\n"), IsEmpty());
  EXPECT_THAT(*SpecDifferences("", ""), IsEmpty());
}

TEST(DifferenceTest, WhatIsNoYamlIsAnError) {
  EXPECT_THAT(SpecDifferences("a: [", "a: 1"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("job file")));
}

}  // namespace
}  // namespace vitscale
