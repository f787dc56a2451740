// The tree of a folder of images: a folder per class, images below it at any depth.
//
// Classes are the folders right below the root in the byte order of their names; the images of a
// class follow in the byte order of names, folder by folder, so that every worker counts them
// alike. What counts as an image:
//
//   name begins with "."             skipped, folders too
//   .jpg .jpeg .jpe .jfif .png .webp  an image by its name, in any case of letters; not opened here
//   any other name                   opened: an image if its first bytes are one's, else an error
//   symlink                          followed, to files and folders, as long as it stays below a
//                                    data root; a loop is an error
//   file beside the class folders    passed over; an image there is an error
//   class folder without images      keeps its number; a warning
//
// 1.3 million files take about 45 MB.

#ifndef WORKER_DATA_FOLDER_INDEX_H_
#define WORKER_DATA_FOLDER_INDEX_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "kernels/base/files.h"

namespace vitscale {

class FolderIndex {
 public:
  // `root`: a real path below one of `roots`. `take` > 0: so many images, the first of each class
  // in turn, then the second. Errors: INVALID_ARGUMENT without class folders or images, or with
  // more class folders than `classes_max`; DATA_LOSS for a file that is no image; PERMISSION_DENIED
  // for a symlink that leaves the roots; NOT_FOUND for one that leads nowhere; FAILED_PRECONDITION
  // for a loop or more than 32 levels. Progress is logged.
  static absl::StatusOr<FolderIndex> Scan(FileSystem& fs, const std::vector<std::string>& roots,
                                          const std::string& root, int classes_max, int64_t take);

  int64_t size() const { return static_cast<int64_t>(files_.size()); }
  std::string PathOf(int64_t index) const;
  int32_t label(int64_t index) const { return files_[index].label; }
  const std::vector<std::string>& class_names() const { return class_names_; }
  // Of all names, whatever the root is called.
  uint64_t fingerprint() const { return fingerprint_; }

 private:
  class Scanner;
  struct File {
    uint64_t name;       // where it begins in names_
    uint32_t directory;  // in directories_
    int32_t label;
  };
  void Add(uint32_t directory, absl::string_view name, int32_t label);
  void Keep(int64_t take);

  std::vector<std::string> class_names_, directories_;
  std::string names_;        // each ends with NUL; one that begins with "/" is a whole path
  std::vector<File> files_;  // by label
  uint64_t fingerprint_ = 0;
};

}  // namespace vitscale

#endif  // WORKER_DATA_FOLDER_INDEX_H_
