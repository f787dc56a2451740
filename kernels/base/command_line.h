// What the command lines of all programs have in common, on top of CLI11 (a header alone, so that
// only programs that parse a command line need CLI11): checks of values that say what was given and
// what is wanted, and help that ends in one line break.

#ifndef KERNELS_BASE_COMMAND_LINE_H_
#define KERNELS_BASE_COMMAND_LINE_H_

#include <CLI/CLI.hpp>
#include <cmath>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/base/suggest.h"

namespace vitscale {

// `is_right` of the text of a value; the message is "--flag: was "x", wanted …".
inline CLI::Validator FlagCheck(const std::string& wanted,
                                std::function<bool(const std::string&)> is_right,
                                std::function<std::string(const std::string&)> hint = nullptr) {
  return CLI::Validator(
      [=](std::string& text) {
        if (is_right(text)) return std::string();
        return absl::StrCat("was \"", text, "\", wanted ", wanted, hint ? hint(text) : "");
      },
      /*validator_desc=*/"");
}

// A whole number from `least` to `most`, both included.
inline CLI::Validator WholeNumber(int64_t least, int64_t most) {
  return FlagCheck(absl::StrCat("a whole number from ", least, " to ", most),
                   [least, most](const std::string& text) {
                     int64_t value = 0;
                     return absl::SimpleAtoi(text, &value) && value >= least && value <= most;
                   });
}

// A finite number from `least` to `most`, both included.
inline CLI::Validator Number(double least, double most) {
  return FlagCheck(absl::StrCat("a number from ", least, " to ", most),
                   [least, most](const std::string& text) {
                     double value = 0;
                     return absl::SimpleAtod(text, &value) && value >= least && value <= most;
                   });
}

inline CLI::Validator NumberAboveZero() {
  return FlagCheck("a number above 0", [](const std::string& text) {
    double value = 0;
    return absl::SimpleAtod(text, &value) && value > 0 && std::isfinite(value);
  });
}

// An empty text is mostly a variable of the shell that is not set.
inline CLI::Validator NotEmpty() {
  return FlagCheck("something", [](const std::string& text) { return !text.empty(); });
}

// "a, b or c".
inline std::string AnyOfWords(const std::vector<std::string>& words) {
  if (words.size() < 2) return absl::StrJoin(words, "");
  const std::vector<std::string> most(words.begin(), words.end() - 1);
  return absl::StrCat(absl::StrJoin(most, ", "), " or ", words.back());
}

inline CLI::Validator OneOfWords(const std::vector<std::string>& words) {
  return FlagCheck(
      AnyOfWords(words),
      [words](const std::string& text) {
        for (const std::string& word : words) {
          if (text == word) return true;
        }
        return false;
      },
      [words](const std::string& text) { return DidYouMean(text, words); });
}

// Help without blank lines at its end. For an app before its subcommands are added.
inline void TidyHelp(CLI::App& app) {
  class Tidy : public CLI::Formatter {
   public:
    std::string make_help(const CLI::App* of, std::string name,
                          CLI::AppFormatMode mode) const override {
      std::string help = CLI::Formatter::make_help(of, std::move(name), mode);
      help.erase(help.find_last_not_of('\n') + 1);
      return help + "\n";
    }
  };
  app.formatter(std::make_shared<Tidy>());
}

}  // namespace vitscale

#endif  // KERNELS_BASE_COMMAND_LINE_H_
