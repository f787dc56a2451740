// Protobuf strings are UTF-8: a stray byte would be refused far from the file that it stands in.
// Internal to proto/spec.

#ifndef PROTO_SPEC_UTF8_H_
#define PROTO_SPEC_UTF8_H_

#include <cstddef>

#include "absl/strings/string_view.h"

namespace vitscale {

// Offset of the first byte that is not well-formed UTF-8 (Unicode 15, table 3-7); npos if there is
// none.
size_t FirstBadUtf8(absl::string_view text);

}  // namespace vitscale

#endif  // PROTO_SPEC_UTF8_H_
