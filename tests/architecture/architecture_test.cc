// Reads every source file of the tree and holds it against the rules: a wrong #include turns CI red
// with file, line and the rule that it breaks.

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "gmock/gmock.h"
#include "tests/architecture/include_rules.h"

namespace vitscale {
namespace {

using testing::IsEmpty;

struct Include {
  std::string path;  // between quotes or angle brackets
  int line = 0;
  bool quoted = false;
};

struct SourceFile {
  std::string path;  // from the root of the tree
  std::string text;
  std::vector<std::string> lines;
  std::vector<Include> includes;

  bool is_header() const { return absl::EndsWith(path, ".h"); }
  std::string stem() const { return path.substr(0, path.rfind('.')); }
};

// `#include "x"` or `#include <x>`; nothing else begins a line so.
bool ParseInclude(absl::string_view line, Include* include) {
  line = absl::StripLeadingAsciiWhitespace(line);
  if (!absl::StartsWith(line, "#include")) return false;
  const size_t begin = line.find_first_of("\"<");
  if (begin == absl::string_view::npos) return false;
  const size_t end = line.find_first_of("\">", begin + 1);
  if (end == absl::string_view::npos) return false;
  include->quoted = line[begin] == '"';
  include->path = std::string(line.substr(begin + 1, end - begin - 1));
  return true;
}

SourceFile ReadSource(const std::filesystem::path& root, const std::filesystem::path& path) {
  SourceFile file;
  file.path = std::filesystem::relative(path, root).generic_string();
  std::ifstream stream(path);
  std::string line;
  while (std::getline(stream, line)) {
    file.lines.push_back(line);
    absl::StrAppend(&file.text, line, "\n");
    Include include;
    include.line = static_cast<int>(file.lines.size());
    if (ParseInclude(line, &include)) file.includes.push_back(include);
  }
  return file;
}

const std::vector<SourceFile>& Tree() {
  static const auto* files = [] {
    auto* result = new std::vector<SourceFile>;
    const std::filesystem::path root = VITSCALE_SOURCE_DIR;
    for (const char* folder : {"kernels", "proto", "server", "worker", "client", "tests"}) {
      for (const auto& entry : std::filesystem::recursive_directory_iterator(root / folder)) {
        const std::string extension = entry.path().extension();
        if (extension == ".h" || extension == ".cc" || extension == ".cu")
          result->push_back(ReadSource(root, entry.path()));
      }
    }
    std::sort(result->begin(), result->end(),
              [](const SourceFile& a, const SourceFile& b) { return a.path < b.path; });
    return result;
  }();
  return *files;
}

// Calls `check` for every include outside of tests; it returns what is wrong or "".
template <typename Check>
std::vector<std::string> FaultyIncludes(const Check& check) {
  std::vector<std::string> faults;
  for (const SourceFile& file : Tree()) {
    if (LayerOf(file.path) == Layer::kTests) continue;
    for (const Include& include : file.includes) {
      const std::string fault = check(file, include);
      if (!fault.empty()) {
        faults.push_back(
            absl::StrCat("\n", file.path, ":", include.line, ": ", include.path, ": ", fault));
      }
    }
  }
  return faults;
}

TEST(ArchitectureTest, TheTreeIsFound) {
  EXPECT_GT(Tree().size(), 100u);
  EXPECT_TRUE(std::any_of(Tree().begin(), Tree().end(),
                          [](const SourceFile& file) { return absl::EndsWith(file.path, ".cu"); }));
}

TEST(ArchitectureTest, LayersIncludeOnlyWhatTheTableAllows) {
  EXPECT_THAT(FaultyIncludes([](const SourceFile& file, const Include& include) -> std::string {
                const Layer from = LayerOf(file.path);
                // A generated header of the server's own rows lies in its own folder.
                const bool own_rows = absl::StartsWith(include.path, "server/");
                const Layer to = own_rows ? Layer::kServer : LayerOf(include.path);
                if (to == Layer::kOutside || MayInclude(from).count(to) > 0) return "";
                return absl::StrCat(LayerName(from), " may not include ", LayerName(to));
              }),
              IsEmpty());
}

TEST(ArchitectureTest, GrpcHeadersStandOnlyInRpcFiles) {
  EXPECT_THAT(FaultyIncludes([](const SourceFile& file, const Include& include) -> std::string {
                const bool grpc = absl::StartsWith(include.path, "grpc") ||
                                  absl::EndsWith(include.path, ".grpc.pb.h");
                if (!grpc || absl::EndsWith(file.stem(), "_rpc")) return "";
                return "they cost 8 seconds each: only in files called *_rpc";
              }),
              IsEmpty());
}

TEST(ArchitectureTest, LibrariesStayInTheirFolders) {
  EXPECT_THAT(FaultyIncludes([](const SourceFile& file, const Include& include) -> std::string {
                for (const LibraryRule& rule : LibraryRules()) {
                  if (!absl::StartsWith(include.path, rule.prefix)) continue;
                  const bool allowed = std::any_of(rule.folders.begin(), rule.folders.end(),
                                                   [&](const std::string& folder) {
                                                     return absl::StartsWith(file.path, folder);
                                                   });
                  if (!allowed)
                    return absl::StrCat("belongs in ", absl::StrJoin(rule.folders, ", "));
                }
                return "";
              }),
              IsEmpty());
}

TEST(ArchitectureTest, CoresSeeNoClockThreadFileOrSocket) {
  EXPECT_THAT(FaultyIncludes([](const SourceFile& file, const Include& include) -> std::string {
                for (const std::string& core : CoreFolders()) {
                  if (absl::StartsWith(file.path, core) && IsForbiddenInCore(include.path)) {
                    return "a deterministic core gets events and gives actions, nothing else";
                  }
                }
                return "";
              }),
              IsEmpty());
}

TEST(ArchitectureTest, OurHeadersAreIncludedByTheirPathFromTheRoot) {
  std::map<std::string, bool> known;
  for (const SourceFile& file : Tree()) known[file.path] = true;
  std::vector<std::string> faults;
  for (const SourceFile& file : Tree()) {
    for (const Include& include : file.includes) {
      const bool ours =
          LayerOf(include.path) != Layer::kOutside && !absl::EndsWith(include.path, ".pb.h") &&
          !absl::StartsWith(include.path, "google/") && !absl::StartsWith(include.path, "grpc");
      const bool relative =
          absl::StrContains(include.path, "..") ||
          known.count(absl::StrCat(file.path.substr(0, file.path.rfind('/') + 1), include.path));
      if (relative || (ours && (!include.quoted || known.count(include.path) == 0))) {
        faults.push_back(absl::StrCat("\n", file.path, ":", include.line, ": ", include.path));
      }
    }
  }
  EXPECT_THAT(faults, IsEmpty());
}

TEST(ArchitectureTest, EveryHeaderHasTheGuardOfItsPath) {
  std::vector<std::string> faults;
  for (const SourceFile& file : Tree()) {
    if (!file.is_header()) continue;
    const std::string guard = absl::StrCat(
        absl::AsciiStrToUpper(absl::StrReplaceAll(file.path, {{"/", "_"}, {".", "_"}, {"-", "_"}})),
        "_");
    const std::string opening = absl::StrCat("#ifndef ", guard, "\n#define ", guard, "\n");
    const std::string closing = absl::StrCat("#endif  // ", guard, "\n");
    if (!absl::StrContains(file.text, opening) || !absl::EndsWith(file.text, closing)) {
      faults.push_back(absl::StrCat("\n", file.path, ": want ", guard));
    }
  }
  EXPECT_THAT(faults, IsEmpty());
}

TEST(ArchitectureTest, EveryHeaderBeginsByWhatItIs) {
  std::vector<std::string> faults;
  for (const SourceFile& file : Tree()) {
    const bool tests = LayerOf(file.path) == Layer::kTests;
    if (file.is_header() && !tests && !absl::StartsWith(file.text, "//"))
      faults.push_back(file.path);
  }
  EXPECT_THAT(faults, IsEmpty());
}

TEST(IncludeRulesTest, PathsAreSortedIntoLayers) {
  EXPECT_EQ(LayerOf("kernels/base/files.h"), Layer::kBase);
  EXPECT_EQ(LayerOf("kernels/tensor.h"), Layer::kProgram);
  EXPECT_EQ(LayerOf("kernels/check.cc"), Layer::kKernels);
  EXPECT_EQ(LayerOf("kernels/cpu/isa.h"), Layer::kCpu);
  EXPECT_EQ(LayerOf("kernels/cuda/dialect/warp.h"), Layer::kCuda);
  EXPECT_EQ(LayerOf("vitscale/v1/job.pb.h"), Layer::kMessages);
  EXPECT_EQ(LayerOf("vitscale/v1/control_service.grpc.pb.h"), Layer::kRpc);
  EXPECT_EQ(LayerOf("worker/agent/core/agent_core.h"), Layer::kAgent);
  EXPECT_EQ(LayerOf("worker/trainer/shell.h"), Layer::kEngine);
  EXPECT_EQ(LayerOf("worker/checkpoint/manifest.h"), Layer::kFileFormats);
  EXPECT_EQ(LayerOf("absl/status/status.h"), Layer::kOutside);
}

TEST(IncludeRulesTest, TheTableSaysNoWhereItMatters) {
  EXPECT_EQ(MayInclude(Layer::kAgent).count(Layer::kEngine), 0u);
  EXPECT_EQ(MayInclude(Layer::kAgent).count(Layer::kProgram), 0u);
  EXPECT_EQ(MayInclude(Layer::kEngine).count(Layer::kMessages), 0u);
  EXPECT_EQ(MayInclude(Layer::kEngine).count(Layer::kRpc), 0u);
  EXPECT_EQ(MayInclude(Layer::kModel).count(Layer::kFactory), 0u);
  EXPECT_EQ(MayInclude(Layer::kServer).count(Layer::kEngine), 0u);
  EXPECT_EQ(MayInclude(Layer::kClient).count(Layer::kProgram), 0u);
  EXPECT_EQ(MayInclude(Layer::kClient).count(Layer::kEngine), 0u);
  EXPECT_EQ(MayInclude(Layer::kFileFormats).count(Layer::kEngine), 0u);
  EXPECT_EQ(MayInclude(Layer::kFileFormats).count(Layer::kFactory), 0u);
  EXPECT_EQ(MayInclude(Layer::kCuda).count(Layer::kCpu), 0u);
  EXPECT_EQ(MayInclude(Layer::kKernels).count(Layer::kCuda), 0u);
  EXPECT_EQ(MayInclude(Layer::kBase).size(), 1u);
}

}  // namespace
}  // namespace vitscale
