// Files that cannot be read: all faults at once, with their lines; hostile ones.

#include "absl/strings/str_cat.h"
#include "tests/proto/spec/job_spec_cases.h"

namespace vitscale {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::IsEmpty;

TEST(JobSpecTest, AllFaultsAreReportedAtOnceWithPathAndLine) {
  const auto faults = FaultsOf(R"(name: Bad Name
modle: {variant: S/16}
model:
  variant: S/16
  image_sise: 224
  classes: many
  pool: mapp
batch:
  global: 0
data: {train: {format: idx, images: ../x, labels: y}}
optimizer: {lr: -1}
schedule: {total: 100, warmup: 5 steps}
)");
  EXPECT_THAT(
      faults,
      testing::UnorderedElementsAre(
          AllOf(HasSubstr("modle (line 2): unknown key, did you mean \"model\"?")),
          AllOf(HasSubstr("model.image_sise (line 5): unknown key, did you mean \"image_size\"?")),
          AllOf(HasSubstr("model.classes (line 6): was \"many\", wanted a whole number")),
          AllOf(HasSubstr(
              "model.pool (line 7): was \"mapp\", wanted map, gap or cls, did you mean \"map\"?")),
          AllOf(HasSubstr("name (line 1): was \"Bad Name\"")),
          AllOf(HasSubstr("batch.global (line 9): was 0, wanted 1 to 1048576")),
          AllOf(HasSubstr("data.train.images (line 10): was \"../x\", wanted a path without")),
          AllOf(HasSubstr("optimizer.lr (line 11): was -1, wanted above 0 to 100")),
          AllOf(HasSubstr("schedule.total (line 12): was \"100\", wanted a length with a unit"))));
}

TEST(JobSpecTest, AnEmptyFileNamesEverythingThatIsRequired) {
  const auto faults = FaultsOf("");
  EXPECT_THAT(faults,
              testing::UnorderedElementsAre(HasSubstr("batch.global: is missing, wanted 1 to"),
                                            HasSubstr("model: has neither variant nor custom"),
                                            HasSubstr("model.classes: is missing, wanted 1 to"),
                                            HasSubstr("data.train.format: is missing"),
                                            HasSubstr("optimizer.lr: is missing"),
                                            HasSubstr("schedule.total: is missing")));
}

TEST(JobSpecTest, DuplicateKeysAreFaults) {
  EXPECT_THAT(OneFault(absl::StrCat(kGood, "seed: 4\n")),
              HasSubstr("seed (line 24): given twice, first in line 23"));
  EXPECT_THAT(FaultsOf("{\"seed\": 1,\n\"seed\": 2}"), testing::Contains(HasSubstr("given twice")));
  EXPECT_THAT(FaultsOf("seed: 1 seed: 2 model {}", {}, SpecFormat::kTextproto),
              testing::Contains(HasSubstr("seed (line 1): given more than once")));
}

TEST(JobSpecTest, SyntaxErrorsNameTheLine) {
  EXPECT_THAT(OneFault("name: a\nmodel: [1,\n"), AllOf(HasSubstr("not YAML"), HasSubstr("line")));
  EXPECT_THAT(OneFault("{\"name\": \"a\",\n\"seed\": }"),
              AllOf(HasSubstr("line 2"), HasSubstr("not JSON")));
  EXPECT_THAT(OneFault("name: 'a'\nmodel { variant: }"),
              AllOf(HasSubstr("line 2"), HasSubstr("not textproto")));
  EXPECT_THAT(OneFault("- a\n- b\n"), HasSubstr("was a list, wanted a mapping"));
  EXPECT_THAT(OneFault("name: a\n---\nname: b\n"), HasSubstr("more than one document"));
}

TEST(JobSpecTest, JsonFaultsNameTheLineOfTheirKey) {
  const auto faults = FaultsOf("{\"name\": \"a\",\n \"seed\": -1,\n \"batch\": {\"global\": 0\n}}");
  EXPECT_THAT(faults, testing::Contains(HasSubstr("seed (line 2)")));
  EXPECT_THAT(faults, testing::Contains(HasSubstr("batch.global (line 3)")));
}

TEST(JobSpecTest, HostileFilesAreRefusedQuickly) {
  std::string bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n";
  for (char c = 'b'; c < 'k'; ++c) {
    const std::string name(1, c), before(1, c - 1);
    absl::StrAppend(&bomb, name, ": &", name, " [*", before);
    for (int i = 0; i < 8; ++i) absl::StrAppend(&bomb, ", *", before);
    absl::StrAppend(&bomb, "]\n");
  }
  EXPECT_THAT(OneFault(bomb), HasSubstr("more than 20000 values"));
  EXPECT_THAT(OneFault(std::string(200, '[')), HasSubstr("nested deeper than 32"));
  EXPECT_THAT(OneFault(std::string(100000, '[')), HasSubstr("nested deeper than 32"));
  EXPECT_THAT(OneFault("{\"a\":" + std::string(100000, '[')), HasSubstr("nested deeper than 32"));
  std::string nested;
  for (int i = 0; i < 1000; ++i) nested += "model {";
  EXPECT_THAT(OneFault(nested), HasSubstr("nested deeper than 32"));
  EXPECT_THAT(OneFault(std::string((1 << 20) + 1, 'x')), HasSubstr("wanted at most 1048576"));
  EXPECT_THAT(OneFault("name: " + std::string(5000, 'x')), HasSubstr("wanted at most 4096"));
  EXPECT_THAT(OneFault("a: &a [*a]"), HasSubstr("alias"));
  EXPECT_THAT(FaultsOf("\xff\xfe\x00"), testing::Not(IsEmpty()));
}

}  // namespace
}  // namespace vitscale
