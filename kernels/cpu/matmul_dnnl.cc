// The oneDNN way of matmul.h. Primitives, memory objects and argument lists are made once per
// number of rows and thread; a call sets five pointers. Works with oneDNN 2.6 and 3 (which removed
// matmul::desc).
//
// oneDNN chooses its instructions once in the life of a process. A backend with a lower set than
// the machine's best therefore limits oneDNN before the first use; one that comes too late for that
// multiplies by tiles only.

#include <omp.h>

#include <algorithm>
#include <map>
#include <mutex>
#include <oneapi/dnnl/dnnl.hpp>
#include <string>
#include <tuple>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/status.h"
#include "kernels/cpu/matmul.h"

namespace vitscale::cpu {
namespace {

using dnnl::memory;

const dnnl::engine& Engine() {
  static const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  return engine;
}

memory::data_type Type(bool bf16) {
  return bf16 ? memory::data_type::bf16 : memory::data_type::f32;
}

// The most that oneDNN may use beside our kernels for `isa`. The best set of the machine leaves it
// free: it knows sets that we do not.
bool LimitDnnl(Isa isa) {
  if (isa == BestIsa()) return true;
  const auto most = isa == Isa::kAvx2     ? dnnl::cpu_isa::avx2
                    : isa == Isa::kAvx512 ? dnnl::cpu_isa::avx512_core
                                          : dnnl::cpu_isa::avx512_core_bf16;
  return dnnl::set_max_cpu_isa(most) == dnnl::status::success;
}

struct Descs {
  memory::desc x, weight, bias, y;
  bool has_bias = false;
};

dnnl::matmul::primitive_desc MakePrimitiveDesc(const Descs& d) {
  dnnl::primitive_attr attr;
  attr.set_scratchpad_mode(dnnl::scratchpad_mode::user);
#if DNNL_VERSION_MAJOR >= 3
  if (d.has_bias) return {Engine(), d.x, d.weight, d.bias, d.y, attr};
  return {Engine(), d.x, d.weight, d.y, attr};
#else
  if (d.has_bias) return {dnnl::matmul::desc(d.x, d.weight, d.bias, d.y), attr, Engine()};
  return {dnnl::matmul::desc(d.x, d.weight, d.y), attr, Engine()};
#endif
}

// What oneDNN likes best for a right operand [k, columns], whatever the number of rows: so that all
// programs share one copy.
memory::desc WeightDesc(const WeightFormat& format, int64_t in, int64_t out) {
  constexpr int64_t kRows = 392;
  const int64_t k = format.transposed ? out : in, columns = format.transposed ? in : out;
  Descs d;
  d.x = memory::desc({kRows, k}, Type(format.bf16), memory::format_tag::ab);
  d.weight = memory::desc({k, columns}, Type(format.bf16), memory::format_tag::any);
  d.y = memory::desc({kRows, columns}, Type(format.bf16), memory::format_tag::ab);
  return MakePrimitiveDesc(d).weights_desc();
}

// A reorder from a plain blob [in, out]; made once per format and shape, since making one costs
// more than running it.
struct Packer {
  memory::desc plain, packed, scratch;
  dnnl::reorder reorder;
};

const Packer& PackerFor(const WeightFormat& format, int64_t in, int64_t out) {
  static std::mutex mutex;
  static auto& packers = *new std::map<std::tuple<bool, bool, int64_t, int64_t>, Packer>;
  const std::lock_guard<std::mutex> lock(mutex);
  const auto [found, is_new] = packers.try_emplace({format.bf16, format.transposed, in, out});
  if (is_new) {
    Packer& packer = found->second;
    packer.plain = format.transposed
                       ? memory::desc({out, in}, Type(format.bf16), memory::format_tag::ba)
                       : memory::desc({in, out}, Type(format.bf16), memory::format_tag::ab);
    packer.packed = WeightDesc(format, in, out);
    dnnl::primitive_attr attr;
    attr.set_scratchpad_mode(dnnl::scratchpad_mode::user);  // several threads run it
    const dnnl::reorder::primitive_desc desc(Engine(), packer.plain, Engine(), packer.packed, attr);
    packer.scratch = desc.scratchpad_desc();
    packer.reorder = dnnl::reorder(desc);
  }
  return found->second;
}

class DnnlMatmulWay : public PackedMatmul {
 public:
  DnnlMatmulWay(const MatmulShape& shape, bool transposed, int threads) : shape_(shape) {
    format_ = {shape.bf16, transposed, /*dnnl=*/true};
    for (int64_t rows : shape.rows) sizes_.push_back(MakeSize(rows, threads));
  }
  const WeightFormat& format() const override { return format_; }
  int64_t scratch_bytes() const override {
    int64_t bytes = 0;
    for (const Size& size : sizes_) bytes = std::max(bytes, size.scratch_bytes);
    return bytes;
  }

  void Multiply(int thread, int64_t rows, const void* x, const void* packed, const float* bias,
                void* y, std::byte* scratch) override {
    const auto size =
        std::find_if(sizes_.begin(), sizes_.end(), [&](const Size& s) { return s.rows == rows; });
    VITSCALE_CHECK(size != sizes_.end()) << "matmul of " << rows << " rows was not prepared";
    PerThread& t = size->threads[thread];
    t.x.set_data_handle(const_cast<void*>(x));
    t.weight.set_data_handle(const_cast<void*>(packed));
    if (shape_.bias) t.bias.set_data_handle(const_cast<float*>(bias));
    t.y.set_data_handle(y);
    t.scratch.set_data_handle(scratch);
    const dnnl_status_t status = dnnl_primitive_execute(
        size->primitive.get(), t.stream.get(), static_cast<int>(t.args.size()), t.args.data());
    VITSCALE_CHECK(status == dnnl_success) << "oneDNN matmul: status " << static_cast<int>(status);
  }

 private:
  struct PerThread {
    dnnl::stream stream;
    memory x, weight, bias, y, scratch;
    std::vector<dnnl_exec_arg_t> args;
  };
  struct Size {
    int64_t rows = 0;
    int64_t scratch_bytes = 0;
    dnnl::matmul primitive;
    std::vector<PerThread> threads;
  };

  Size MakeSize(int64_t rows, int threads) const {
    const int64_t k = format_.transposed ? shape_.out : shape_.in;
    const int64_t columns = format_.transposed ? shape_.in : shape_.out;
    Descs d;
    d.x = Rows(rows, k, shape_.x_stride(format_.transposed), shape_.bf16);
    d.weight = WeightDesc(format_, shape_.in, shape_.out);
    d.has_bias = shape_.bias;
    if (d.has_bias) d.bias = memory::desc({1, columns}, Type(false), memory::format_tag::ab);
    d.y = Rows(rows, columns, shape_.y_stride(format_.transposed), shape_.y == TileOut::kBf16);
    const dnnl::matmul::primitive_desc desc = MakePrimitiveDesc(d);
    Size size;
    size.rows = rows;
    size.scratch_bytes = static_cast<int64_t>(desc.scratchpad_desc().get_size());
    size.primitive = dnnl::matmul(desc);
    for (int i = 0; i < threads; ++i) size.threads.push_back(MakeThread(d, desc.scratchpad_desc()));
    return size;
  }

  static memory::desc Rows(int64_t rows, int64_t columns, int64_t stride, bool bf16) {
    return {memory::dims{rows, columns}, Type(bf16), memory::dims{stride, 1}};
  }
  static PerThread MakeThread(const Descs& d, const memory::desc& scratchpad) {
    PerThread t;
    t.stream = dnnl::stream(Engine());
    t.x = memory(d.x, Engine(), nullptr);
    t.weight = memory(d.weight, Engine(), nullptr);
    t.y = memory(d.y, Engine(), nullptr);
    t.scratch = memory(scratchpad, Engine(), nullptr);
    t.args = {{DNNL_ARG_SRC, t.x.get()},
              {DNNL_ARG_WEIGHTS, t.weight.get()},
              {DNNL_ARG_DST, t.y.get()},
              {DNNL_ARG_SCRATCHPAD, t.scratch.get()}};
    if (d.has_bias) {
      t.bias = memory(d.bias, Engine(), nullptr);
      t.args.push_back({DNNL_ARG_BIAS, t.bias.get()});
    }
    return t;
  }

  MatmulShape shape_;
  WeightFormat format_;
  std::vector<Size> sizes_;
};

}  // namespace

bool DnnlServes(Isa isa) {
  // Used by somebody else before: then it is what it is by default.
  static const Isa served = LimitDnnl(isa) ? isa : BestIsa();
  return isa == served;
}

PackedMatmulOr MakeDnnlMatmul(const MatmulShape& shape, bool transposed, int threads) {
  omp_set_num_threads(1);  // a primitive remembers the number of threads that it was made with
  try {
    return std::make_unique<DnnlMatmulWay>(shape, transposed, threads);
  } catch (const dnnl::error& error) {
    return absl::InternalError(
        absl::StrCat("oneDNN matmul [", shape.in, ", ", shape.out, "]: ", error.what()));
  }
}

PackedLayout DnnlLayout(const WeightFormat& format, int64_t in, int64_t out) {
  using Tag = memory::format_tag;
  struct Blocks {
    Tag tag;
    int64_t columns;
  };
  // 16 units of k and some columns; a unit of bf16 is a pair.
  static constexpr Blocks kF32[] = {
      {Tag::BA16a64b, 64}, {Tag::BA16a48b, 48}, {Tag::BA16a32b, 32}, {Tag::BA16a16b, 16}};
  static constexpr Blocks kBf16[] = {
      {Tag::BA16a64b2a, 64}, {Tag::BA16a48b2a, 48}, {Tag::BA16a32b2a, 32}, {Tag::BA16a16b2a, 16}};
  const int64_t k = format.transposed ? out : in, columns = format.transposed ? in : out;
  const int64_t per_unit = format.bf16 ? 2 : 1;
  const memory::desc chosen = WeightDesc(format, in, out);
  PackedLayout layout;
  for (const Blocks& blocks : format.bf16 ? kBf16 : kF32) {
    if (chosen != memory::desc({k, columns}, Type(format.bf16), blocks.tag)) continue;
    layout.units = (k + 16 * per_unit - 1) / (16 * per_unit) * 16;
    for (int64_t edge = 0; edge < columns; edge += blocks.columns) layout.edges.push_back(edge);
    layout.edges.push_back(layout.edges.back() + blocks.columns);
    break;
  }
  return layout;
}

int64_t DnnlPackedBytes(const WeightFormat& format, int64_t in, int64_t out) {
  return static_cast<int64_t>(WeightDesc(format, in, out).get_size());
}

void DnnlPackWeight(const WeightFormat& format, int64_t in, int64_t out, const void* blob,
                    void* packed) {
  try {
    const Packer& packer = PackerFor(format, in, out);
    memory from(packer.plain, Engine(), const_cast<void*>(blob));
    memory to(packer.packed, Engine(), packed);
    dnnl::stream stream(Engine());
    memory scratch(packer.scratch, Engine());
    packer.reorder.execute(
        stream, {{DNNL_ARG_FROM, from}, {DNNL_ARG_TO, to}, {DNNL_ARG_SCRATCHPAD, scratch}});
  } catch (const dnnl::error& error) {
    VITSCALE_CHECK(false) << "oneDNN reorder [" << in << ", " << out << "]: " << error.what();
  }
}

const char* DnnlVersion() {
  static const std::string text = [] {
    const dnnl_version_t* v = dnnl_version();
    return absl::StrCat("oneDNN ", v->major, ".", v->minor, ".", v->patch);
  }();
  return text.c_str();
}

}  // namespace vitscale::cpu
