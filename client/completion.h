// Shell completion, generated from the command tree itself so that it cannot lag behind.

#ifndef CLIENT_COMPLETION_H_
#define CLIENT_COMPLETION_H_

#include <string>

namespace CLI {
class App;
}

namespace vitscale {

std::string BashCompletion(const CLI::App& app);
std::string ZshCompletion(const CLI::App& app);
std::string FishCompletion(const CLI::App& app);

}  // namespace vitscale

#endif  // CLIENT_COMPLETION_H_
