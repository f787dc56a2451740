// The one owner of a file descriptor.

#ifndef KERNELS_BASE_UNIQUE_FD_H_
#define KERNELS_BASE_UNIQUE_FD_H_

#include <utility>

namespace vitscale {

class UniqueFd {
 public:
  UniqueFd() = default;
  explicit UniqueFd(int fd) : fd_(fd) {}  // takes ownership; negative means none
  UniqueFd(UniqueFd&& other) noexcept : fd_(other.release()) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept {
    if (this != &other) reset(other.release());
    return *this;
  }
  UniqueFd(const UniqueFd&) = delete;
  UniqueFd& operator=(const UniqueFd&) = delete;
  ~UniqueFd() { reset(); }

  int get() const { return fd_; }
  bool valid() const { return fd_ >= 0; }
  int release() { return std::exchange(fd_, -1); }
  void reset(int fd = -1);  // closes what it owned

 private:
  int fd_ = -1;
};

}  // namespace vitscale

#endif  // KERNELS_BASE_UNIQUE_FD_H_
