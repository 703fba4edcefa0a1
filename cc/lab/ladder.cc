#include "cc/lab/ladder.h"

#include <algorithm>
#include <cstring>

#include "cc/core/parallel.h"
#include "cc/core/whole.h"
#include "cc/cpu/pack.h"
#include "cc/cpu/run/scratch_pool.h"
#include "cc/lab/openmp.h"
#include "cc/lab/plain_steps.h"

namespace dwsconv {
namespace {

constexpr char kNoRoomForZ[] =
    "out of memory for the intermediate tensor between the two passes; variant \"auto\" needs none";
constexpr char kOutOfMemory[] = "out of memory for the working buffers of a ladder variant";

// N*Ho*Wo rows of Z; false where that many bytes cannot be counted.
bool ZBytes(const Chain& p, int64_t row_bytes, int64_t* bytes) {
  return !__builtin_mul_overflow(p.N * p.output_pixels(), row_bytes, bytes);
}

// The plain loops.
std::string RunScalar(LadderStep step, const Chain& chain, const Buffers& buffers) {
  int64_t bytes;
  if (!ZBytes(chain, chain.CM() * 4, &bytes)) return kNoRoomForZ;
  Scratch z(bytes);
  if (z.data() == nullptr) return kNoRoomForZ;
  const int64_t l1d = GetCpuFeatures().l1d_bytes;
  const int64_t words = (l1d > 0 ? l1d : 32 << 10) / 4;
  return ForwardLadder(step, chain, buffers, words, reinterpret_cast<float*>(z.data())) ? "" : kOutOfMemory;
}

// The vector kernels, a run of pixels of one image at a time. They are called as the fused kernel calls them; only what
// lies between the two calls differs.
class Passes {
 public:
  Passes(const Chain& chain, const Buffers& buffers, const PackedFilters& packed)
      : p_(chain), buffers_(buffers), packed_(packed), kernels_(packed.kernels()) {
    const int64_t z_bytes = SizeOf(kernels_.z_type), line = 64 / z_bytes, v = kernels_.vector_floats;
    // The last store of the last sub-filter may end up to a vector past C*M.
    const int64_t stored = std::max((p_.M - 1) * p_.C + RoundUp(p_.C, v), RoundUp(p_.CM(), v));
    z_stride_ = RoundUp(stored, line);
    if (z_stride_ * z_bytes % 4096 == 0) z_stride_ += line;  // such rows fall into the same sets of L1
    // Packed pixels leave no gaps between rows, so that a run's last store reaches past its end.
    if (packed.depthwise().packed_pixels > 0) z_stride_ = p_.C;
  }

  bool dense() const { return packed_.depthwise().packed_pixels > 0; }
  int64_t row_bytes() const { return z_stride_ * SizeOf(kernels_.z_type); }
  // With a vector of room for what is stored past the last row.
  int64_t RunBytes(int64_t pixels) const { return RoundUp(pixels * row_bytes() + 64, 64); }

  // Z of pixels [first, first + pixels) of image n to z.
  void Depthwise(int64_t n, int64_t first, int64_t pixels, char* z) const {
    DepthwiseArgs args;
    args.chain = &p_;
    args.image = static_cast<const char*>(buffers_.input) + n * p_.H * p_.W * p_.C * SizeOf(p_.dtype);
    packed_.depthwise().SetFilters(&args);
    args.first_pixel = first;
    args.pixels = pixels;
    args.z = z;
    args.z_stride = z_stride_;
    kernels_.depthwise[static_cast<int>(p_.dtype)](args);
  }

  // Y of pixels [first, first + pixels), counted through the whole batch, from their Z.
  void Pointwise(int64_t first, int64_t pixels, const char* z) const {
    const int64_t at = first * p_.K * SizeOf(p_.dtype);
    PointwiseArgs args;
    args.z = z;
    args.z_stride = z_stride_;
    args.z_padded = false;
    args.pixels = pixels;
    args.cm = p_.CM();
    args.panels = packed_.project().panels;
    args.bias = packed_.project().bias;
    args.k_begin = 0;
    args.k_end = args.residual_step = args.y_step = p_.K;
    args.residual = buffers_.residual ? static_cast<const char*>(buffers_.residual) + at : nullptr;
    args.y = static_cast<char*>(buffers_.output) + at;
    args.dtype = p_.dtype;
    args.activation = p_.out;
    args.ahead = nullptr;
    args.ahead_bytes = 0;
    args.stream = false;
    kernels_.pointwise(args);
  }

 private:
  const Chain& p_;
  const Buffers& buffers_;
  const PackedFilters& packed_;
  const KernelTable& kernels_;
  int64_t z_stride_;
};

using ForFunction = void (*)(int threads, int64_t tasks, const TaskBody& body);

// Both passes in blocks, with all of Z between them.
std::string RunUnfused(const Chain& p, const Buffers& buffers, const PackedFilters& packed, int threads,
                       ForFunction run_tasks) {
  const Passes passes(p, buffers, packed);
  int64_t bytes;
  if (!ZBytes(p, passes.row_bytes(), &bytes) || __builtin_add_overflow(bytes, int64_t{64}, &bytes)) return kNoRoomForZ;
  Scratch z(bytes);
  if (z.data() == nullptr) return kNoRoomForZ;

  // The kernels get through a tile that fits L1 too fast to earn its halo back: tile for half of L2. They take whole
  // channels and runs of pixels, so a tile is a run of rows, or of columns where not even one row fits.
  const int64_t l2 = GetCpuFeatures().l2_bytes;
  const int64_t words = (l2 > 0 ? l2 : 1 << 20) / 2 / 4;
  const int64_t pixels = p.output_pixels();
  int64_t run = SolveDepthwiseRun(p, words);
  const bool rows = run >= p.Wo;
  int64_t block = SolvePointwiseTile(p, words).pixels;
  if (threads > 1) {  // a small chain fits one tile, but there is to be work for every thread
    const int64_t parts = int64_t{4} * threads;
    if (rows) run = std::min(run / p.Wo, CeilDiv(p.N * p.Ho, parts)) * p.Wo;
    block = std::min(block, CeilDiv(p.N * pixels, parts));
  }
  // Where a run is part of a row, it ends with the row.
  const int64_t span = rows ? pixels : p.Wo, runs = CeilDiv(span, run);
  const int64_t run_bytes = passes.RunBytes(run);
  Scratch copies(passes.dense() ? threads * run_bytes : 0);
  if (copies.data() == nullptr) return kOutOfMemory;
  run_tasks(threads, p.N * (pixels / span) * runs, [&](int64_t task, int worker) {
    const int64_t first = task / runs * span + task % runs * run;  // through the whole batch
    const int64_t count = std::min(run, span - task % runs * run);
    char* to = z.data() + first * passes.row_bytes();
    // The spill past a dense run would land in another thread's rows.
    char* stored = passes.dense() ? copies.data() + worker * run_bytes : to;
    passes.Depthwise(first / pixels, first % pixels, count, stored);
    if (passes.dense()) std::memcpy(to, stored, static_cast<size_t>(count * passes.row_bytes()));
  });

  run_tasks(threads, CeilDiv(p.N * pixels, block), [&](int64_t task, int) {
    const int64_t first = task * block;
    passes.Pointwise(first, std::min(block, p.N * pixels - first), z.data() + first * passes.row_bytes());
  });
  return "";
}

// Both halves for one output row at a time: Z of that row is all there is of it.
std::string RunFusedRows(const Chain& p, const Buffers& buffers, const PackedFilters& packed, int threads) {
  const Passes passes(p, buffers, packed);
  threads = static_cast<int>(std::min<int64_t>(threads, p.N * p.Ho));
  const int64_t row_bytes = passes.RunBytes(p.Wo);
  int64_t bytes;
  if (__builtin_mul_overflow(row_bytes, int64_t{threads}, &bytes)) return kOutOfMemory;
  Scratch z(bytes);
  if (z.data() == nullptr) return kOutOfMemory;
  ParallelFor(threads, p.N * p.Ho, [&](int64_t task, int worker) {
    char* row = z.data() + worker * row_bytes;
    passes.Depthwise(task / p.Ho, task % p.Ho * p.Wo, p.Wo, row);
    passes.Pointwise(task * p.Wo, p.Wo, row);
  });
  return "";
}

}  // namespace

std::string ForwardLadderStep(const Chain& chain, const Buffers& buffers, const PackedFilters* packed,
                              const ForwardOptions& options) {
  const int threads = std::max(options.num_threads, 1);
  switch (options.variant) {
    case Variant::kNaive:
      return RunScalar(LadderStep::kNaive, chain, buffers);
    case Variant::kReordered:
      return RunScalar(LadderStep::kReordered, chain, buffers);
    case Variant::kUnrolled:
      return RunScalar(LadderStep::kUnrolled, chain, buffers);
    case Variant::kBlocked:
      return RunScalar(LadderStep::kBlocked, chain, buffers);
    case Variant::kSimd:
      return RunUnfused(chain, buffers, *packed, 1, ForByOpenMp);
    case Variant::kOpenmp:
      return RunUnfused(chain, buffers, *packed, threads, ForByOpenMp);
    case Variant::kFusedUnblocked:
      return RunFusedRows(chain, buffers, *packed, threads);
    case Variant::kAuto:
    case Variant::kReference:
    case Variant::kFused:
      break;
  }
  return std::string("variant \"") + VariantName(options.variant) + "\" is no step of the ladder";
}

}  // namespace dwsconv
