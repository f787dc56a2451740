#include "worker/data/preprocess.h"

#include "gmock/gmock.h"
#include "tests/status_matchers.h"

namespace vitscale {
namespace {

using testing::HasSubstr;

TEST(ParsePreprocessTest, ReadsOpsAndTheirArguments) {
  EXPECT_EQ(*ParsePreprocess("", PreprocessUse::kTrain), (Preprocess{false, -1, 1}));
  EXPECT_EQ(*ParsePreprocess("flip_lr|value_range(-1,1)", PreprocessUse::kTrain),
            (Preprocess{true, -1, 1}));
  EXPECT_EQ(*ParsePreprocess(" flip_lr | value_range( 0 , 0.5 ) ", PreprocessUse::kTrain),
            (Preprocess{true, 0, 0.5}));
  EXPECT_EQ(*ParsePreprocess("flip_lr()", PreprocessUse::kTrain), (Preprocess{true, -1, 1}));
}

TEST(ParsePreprocessTest, EvaluationsRefuseOrDropRandomOps) {
  EXPECT_THAT(ParsePreprocess("flip_lr|value_range(-1,1)", PreprocessUse::kEval),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("\"flip_lr\": is random")));
  EXPECT_EQ(*ParsePreprocess("flip_lr|value_range(0,1)", PreprocessUse::kEvalFromTrain),
            (Preprocess{false, 0, 1}));
}

TEST(ParsePreprocessTest, UnknownOpsAreNamedWithTheNearestOne) {
  EXPECT_THAT(ParsePreprocess("flip_rl", PreprocessUse::kTrain),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("unknown op \"flip_rl\", did you mean \"flip_lr\"?")));
  EXPECT_THAT(
      ParsePreprocess("inception_crop(224)|flip_lr", PreprocessUse::kTrain),
      StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("unknown op \"inception_crop\"")));
}

TEST(ParsePreprocessTest, FaultsNameTheOp) {
  for (const char* text :
       {"value_range", "value_range(1)", "value_range(1,1)", "value_range(1,-1)",
        "value_range(a,b)", "value_range(nan,1)", "value_range(-inf,inf)", "value_range(-1,1",
        "flip_lr(1)", "flip_lr|flip_lr", "value_range(-1,1)|flip_lr",
        "value_range(-1,1)|value_range(-1,1)", "|", "flip_lr|", "(1)"}) {
    EXPECT_THAT(ParsePreprocess(text, PreprocessUse::kTrain),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("preprocess op \"")))
        << text;
  }
}

}  // namespace
}  // namespace vitscale
