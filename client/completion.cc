#include "client/completion.h"

#include <CLI/CLI.hpp>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"

namespace vitscale {
namespace {

struct Flag {
  std::vector<std::string> shorts, longs;
  std::string what;
  bool takes_value = false;
};

std::vector<Flag> FlagsOf(const CLI::App& app) {
  std::vector<Flag> flags;
  for (const CLI::Option* option : app.get_options()) {
    if (option->get_positional() && option->get_lnames().empty() && option->get_snames().empty())
      continue;
    flags.push_back({option->get_snames(), option->get_lnames(), option->get_description(),
                     option->get_items_expected_max() > 0});
  }
  return flags;
}

std::string Words(const CLI::App& app) {
  std::vector<std::string> words;
  for (const Flag& flag : FlagsOf(app)) {
    for (const std::string& name : flag.longs) words.push_back("--" + name);
  }
  for (const CLI::App* command : app.get_subcommands(nullptr)) words.push_back(command->get_name());
  return absl::StrJoin(words, " ");
}

// Every command of the tree with its path ("checkpoints pin"); the program itself has "".
struct PathOf {
  std::string path;
  const CLI::App* app;
};
void Collect(const CLI::App& app, const std::string& path, std::vector<PathOf>* out) {
  out->push_back({path, &app});
  for (const CLI::App* command : app.get_subcommands(nullptr)) {
    Collect(*command,
            path.empty() ? command->get_name() : absl::StrCat(path, " ", command->get_name()), out);
  }
}

std::string Quote(const std::string& text) {
  return absl::StrCat("'", absl::StrReplaceAll(text, {{"'", "'\\''"}}), "'");
}

// zsh's _describe takes "name:what" with colons escaped.
std::string ZshItem(const std::string& name, const std::string& what) {
  return Quote(absl::StrCat(absl::StrReplaceAll(name, {{":", "\\:"}}), ":",
                            absl::StrReplaceAll(what, {{":", "\\:"}})));
}

}  // namespace

std::string BashCompletion(const CLI::App& app) {
  std::vector<PathOf> commands;
  Collect(app, "", &commands);
  std::string cases, paths;
  for (const auto& [path, command] : commands) {
    absl::StrAppend(&cases, "    ", Quote(path), ") words=", Quote(Words(*command)), " ;;\n");
    if (!path.empty()) absl::StrAppend(&paths, paths.empty() ? "" : "|", Quote(path));
  }
  return absl::StrCat(
      "# vitscale completion for bash: source <(vitscale completion bash)\n"
      "_vitscale() {\n"
      "  local current=${COMP_WORDS[COMP_CWORD]} path='' words='' word try\n"
      "  for word in \"${COMP_WORDS[@]:1:COMP_CWORD-1}\"; do\n"
      "    try=${path:+$path }$word\n"
      "    case $try in ",
      paths,
      ") path=$try ;; esac\n"
      "  done\n"
      "  case $path in\n",
      cases,
      "  esac\n"
      "  if [[ $current == -* || -z $path || $words == *' list'* ]]; then\n"
      "    COMPREPLY=($(compgen -W \"$words --address --output --timeout --no-color --help\" -- "
      "\"$current\"))\n"
      "  fi\n"
      "  if [[ ${#COMPREPLY[@]} -eq 0 && $current != -* ]]; then COMPREPLY=($(compgen -f -- "
      "\"$current\")); fi\n"
      "}\n"
      "complete -o filenames -F _vitscale vitscale\n");
}

std::string ZshCompletion(const CLI::App& app) {
  std::vector<PathOf> commands;
  Collect(app, "", &commands);
  std::string cases;
  for (const auto& [path, command] : commands) {
    std::vector<std::string> items;
    for (const CLI::App* sub : command->get_subcommands(nullptr)) {
      items.push_back(ZshItem(sub->get_name(), sub->get_description()));
    }
    for (const Flag& flag : FlagsOf(*command)) {
      for (const std::string& name : flag.longs) items.push_back(ZshItem("--" + name, flag.what));
    }
    absl::StrAppend(&cases, "    ", Quote(path), ") items=(", absl::StrJoin(items, " "), ") ;;\n");
  }
  std::string paths;
  for (const auto& [path, _] : commands) {
    if (!path.empty()) absl::StrAppend(&paths, paths.empty() ? "" : "|", Quote(path));
  }
  return absl::StrCat(
      "#compdef vitscale\n"
      "# vitscale completion for zsh: vitscale completion zsh > \"${fpath[1]}/_vitscale\"\n"
      "_vitscale() {\n"
      "  local path_='' try word\n  local -a items\n"
      "  for word in \"${(@)words[2,CURRENT-1]}\"; do\n"
      "    try=${path_:+$path_ }$word\n"
      "    case $try in (",
      paths,
      ") path_=$try ;; esac\n"
      "  done\n"
      "  case $path_ in\n",
      cases,
      "  esac\n"
      "  _describe -t commands vitscale items\n"
      "  _files\n"
      "}\n"
      "if [ \"$funcstack[1]\" = _vitscale ]; then _vitscale \"$@\"; else compdef _vitscale "
      "vitscale; fi\n");  // autoloaded from fpath, or sourced
}

std::string FishCompletion(const CLI::App& app) {
  std::vector<PathOf> commands;
  Collect(app, "", &commands);
  std::string out = "# vitscale completion for fish: vitscale completion fish | source\n";
  for (const auto& [path, command] : commands) {
    const std::string condition =
        path.empty() ? "__fish_use_subcommand"
                     : absl::StrCat("__fish_seen_subcommand_from ", path.substr(0, path.find(' ')));
    for (const CLI::App* sub : command->get_subcommands(nullptr)) {
      absl::StrAppend(&out, "complete -c vitscale -n ", Quote(condition), " -a ", sub->get_name(),
                      " -d ", Quote(sub->get_description()), "\n");
    }
    for (const Flag& flag : FlagsOf(*command)) {
      for (const std::string& name : flag.longs) {
        absl::StrAppend(&out, "complete -c vitscale",
                        path.empty() ? "" : absl::StrCat(" -n ", Quote(condition)), " -l ", name,
                        flag.takes_value ? " -r" : "", " -d ", Quote(flag.what), "\n");
      }
    }
  }
  return out;
}

}  // namespace vitscale
