// Where ranks of the stand-in for NCCL meet, be they threads or processes: a folder of temporary
// files for each id, named in it. A file for each rank that has come, and one for each operation
// that a rank has come to, with what it asks for and its input.

#ifndef TESTS_CUDA_ON_CPU_NCCL_FOLDER_H_
#define TESTS_CUDA_ON_CPU_NCCL_FOLDER_H_

#include <cstdint>
#include <string>

namespace vitscale::cuda_on_cpu {

// A new one. It is removed when this process ends, or, where it was killed, by the next that makes
// one.
std::string MakeFolder();

std::string FileOfRank(const std::string& folder, int rank);
std::string FileOfInput(const std::string& folder, uint64_t operation, int rank);

bool Exists(const std::string& path);
bool ReadFile(const std::string& path, std::string& text);  // false: not there
// Others see all of it or nothing.
void WriteFile(const std::string& path, const std::string& text);
void RemoveFile(const std::string& path);

}  // namespace vitscale::cuda_on_cpu

#endif  // TESTS_CUDA_ON_CPU_NCCL_FOLDER_H_
