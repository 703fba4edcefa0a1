// What the fused kernels share that go down strips of an image: their arguments, shared memory, where a group of
// threads is, and the copies of rows of X to its ring.
#ifndef DWSCONV_CUDA_FUSED_STREAM_PARTS_CUH_
#define DWSCONV_CUDA_FUSED_STREAM_PARTS_CUH_

#include <cstdint>

#include "cuda/device/activation.cuh"
#include "cuda/device/async_copy.cuh"
#include "cuda/device/element.cuh"
#include "cuda/device/platform.cuh"
#include "cuda/device/store_tile.cuh"

namespace dwsconv {
namespace cuda {

struct StreamArgs {
  const void *x, *d, *p;              // [N,H,W,C], [R,S,C], [C,K]
  const void *depthwise_bias, *bias;  // [C], [K], or null
  OutputArgs out;
  DeviceActivation mid;
  int H, W, C, Ho, Wo;
  int pad_top, pad_left;
  bool x_vector, p_vector;  // whole 16-byte vectors of channels, and pointers aligned to them
  // As in CudaTile.
  int tile_rows, tile_columns, tile_columns_log2, in_columns, channels, ring_rows, out_channels, warp_channels;
  int strips, segments, segment_rows;
  int groups, group_threads, group_threads_log2;
  int word_step, patch_step;  // from one of a thread's units of the depthwise half to the next
  int copy_step;              // columns from one that it copies to the next
  int z_pitch, p_pitch;
  int p_offset_bytes, d_offset_bytes, bias_offset_bytes, z_offset_bytes, ring_offset_bytes, group_bytes;
  int items;
  int image_outputs;  // Ho * Wo * K
};

// Which of the block's groups a thread is in, and which of the group's threads it is.
DWS_DEVICE int GroupOf(const StreamArgs& args) { return static_cast<int>(threadIdx.x) >> args.group_threads_log2; }
DWS_DEVICE int IndexInGroup(const StreamArgs& args) { return static_cast<int>(threadIdx.x) & (args.group_threads - 1); }

// A block's shared memory, as one group sees it.
template <typename T, typename Filter = T>
struct StreamShared {
  T* p;                   // [channels][p_pitch]
  Filter* d;              // [taps][channels]
  float* depthwise_bias;  // [channels]
  float* bias;            // [out_channels]
  T* z;                   // [tile pixels][z_pitch]
  T* ring;                // [ring_rows][in_columns][channels]

  DWS_DEVICE StreamShared(const StreamArgs& args, int group) {
    char* const shared = SharedMemory();
    p = reinterpret_cast<T*>(shared + args.p_offset_bytes);
    d = reinterpret_cast<Filter*>(shared + args.d_offset_bytes);
    depthwise_bias = reinterpret_cast<float*>(shared + args.bias_offset_bytes);
    bias = depthwise_bias + args.channels;
    z = reinterpret_cast<T*>(shared + args.z_offset_bytes + group * args.group_bytes);
    ring = reinterpret_cast<T*>(shared + args.ring_offset_bytes + group * args.group_bytes);
  }
};

// A thread's part in its group, found once: the divisions are done here. Two numbers a register, of which there are
// few.
struct StreamThread {
  uint32_t unit;  // the first unit of the depthwise half that is its own: word, patch
  uint32_t copy;  // what it copies of a row: this piece of this column and every copy_step-th after it

  DWS_DEVICE int FirstWord() const { return static_cast<int>(unit & 0xffffu); }
  DWS_DEVICE int FirstPatch() const { return static_cast<int>(unit >> 16); }
  DWS_DEVICE int CopyChannel() const { return static_cast<int>(copy & 0xffffu); }
  DWS_DEVICE int CopyColumn() const { return static_cast<int>(copy >> 16); }

  template <typename T>
  DWS_DEVICE void Find(const StreamArgs& args, T) {
    constexpr int kVector = 16 / sizeof(T);
    const int words = args.channels / Word<T>::kElements, pieces = args.channels / kVector;
    const int index = IndexInGroup(args), patch = index / words, column = index / pieces;
    unit = Opaque(static_cast<uint32_t>(patch << 16 | (index - patch * words)));
    // Past the last column it copies nothing.
    const int first_column = column < args.copy_step ? column : args.in_columns;
    copy = Opaque(static_cast<uint32_t>(first_column << 16 | (index - column * pieces) * kVector));
  }
};

// Where a group is: a strip of one image's columns, a segment of its rows.
template <typename Win>
struct StreamPlace {
  int image;
  int row, end_row, column;  // of Y

  // Of X: of the first tap; negative in the padding.
  DWS_DEVICE int InRow(const StreamArgs& args) const { return row * Win::kStride - args.pad_top; }
  DWS_DEVICE int InColumn(const StreamArgs& args) const { return column * Win::kStride - args.pad_left; }
};

template <typename Win>
DWS_DEVICE StreamPlace<Win> PlaceOf(const StreamArgs& args, int item) {
  StreamPlace<Win> place;
  const int rest = item / args.strips, strip = item - rest * args.strips;
  place.image = rest / args.segments;
  const int segment = rest - place.image * args.segments;
  place.row = segment * args.segment_rows;
  place.end_row = place.row + args.segment_rows < args.Ho ? place.row + args.segment_rows : args.Ho;
  place.column = strip * args.tile_columns;
  return place;
}

// The item that PlaceOf made a place of: one register less to keep.
template <typename Win>
DWS_DEVICE int ItemOf(const StreamArgs& args, const StreamPlace<Win>& place) {
  return (place.image * args.segments + place.row / args.segment_rows) * args.strips +
         (place.column >> args.tile_columns_log2);
}

// Where the ring has a row's elements: pixel by pixel.
struct PixelRing {
  DWS_DEVICE static int RowElements(const StreamArgs& args) { return args.in_columns * args.channels; }
  DWS_DEVICE static int At(const StreamArgs& args, int column, int channel) { return column * args.channels + channel; }
};

// What of X a group copies next.
template <typename T, typename Win, typename Ring>
struct StreamCopy {
  const T* from;  // the row of X that is next, at the place's first column and the thread's channels; maybe outside
  int at;         // where it goes in the ring, in elements

  // Rows under way at a time where there are no vectors: as many as the registers allow. 0: an element.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ == 800
  static constexpr int kTogether = Win::kSize < 7 && Win::kStride == 1 ? 1 : 0;
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1000
  static constexpr int kTogether = Win::kSize < 7 ? 1 : 0;
#else
  static constexpr int kTogether = Win::kSize < 7 ? 2 : 0;
#endif

  // Without vectors the ring's channels past C become zeros here, and copies leave them alone.
  DWS_DEVICE void Begin(const StreamArgs& args, const StreamThread& me, const StreamPlace<Win>& place, T* ring) {
    at = 0;
    if (kTogether > 0 && !args.x_vector) Pad(args, ring);
    from = static_cast<const T*>(args.x) +
           ((static_cast<int64_t>(place.image) * args.H + place.InRow(args)) * args.W + place.InColumn(args)) * args.C +
           me.CopyChannel();
  }

  // Starts the copies of `count` rows, which is row `first` below the place's first one and the next ones; zeros for
  // what is outside the image.
  DWS_DEVICE void Rows(const StreamArgs& args, const StreamThread& me, const StreamPlace<Win>& place, T* ring,
                       int first, int count) {
    int y = place.InRow(args) + first;
    const int row_elements = Ring::RowElements(args), ring_elements = args.ring_rows * row_elements;
    const int64_t image_row = static_cast<int64_t>(args.W) * args.C;
    if (args.x_vector) {
      // Four rows at a time: copies side by side cost fewer instructions.
      for (int row = 0; row < count; row += 4) {
        int to_row[4];
        bool inside[4];
        DWS_UNROLL
        for (int i = 0; i < 4; ++i) {
          to_row[i] = at;
          inside[i] = me.CopyChannel() < args.C && static_cast<unsigned>(y + i) < static_cast<unsigned>(args.H);
          if (row + i < count) at = at + row_elements == ring_elements ? 0 : at + row_elements;
        }
        DWS_ROLLED
        for (int column = me.CopyColumn(); column < args.in_columns; column += args.copy_step) {
          const bool in_row = static_cast<unsigned>(place.InColumn(args) + column) < static_cast<unsigned>(args.W);
          const T* const from_column = from + column * args.C;
          T* const to = ring + Ring::At(args, column, me.CopyChannel());
          if (row + 4 <= count) {
            DWS_UNROLL
            for (int i = 0; i < 4; ++i) CopyAsync16(to + to_row[i], from_column + i * image_row, in_row && inside[i]);
          } else {
            DWS_UNROLL
            for (int i = 0; i < 3; ++i) {
              if (row + i < count) CopyAsync16(to + to_row[i], from_column + i * image_row, in_row && inside[i]);
            }
          }
        }
        const int done = count - row < 4 ? count - row : 4;
        from += done * image_row;
        y += done;
      }
      return;
    }
    if constexpr (kTogether == 0) {
      for (int row = 0; row < count; ++row) {
        for (int i = IndexInGroup(args); i < args.in_columns * args.channels; i += args.group_threads) {
          const int column = i / args.channels, channel = i - column * args.channels, x = place.InColumn(args) + column;
          const bool valid = y >= 0 && y < args.H && x >= 0 && x < args.W && channel < args.C;
          ring[at + Ring::At(args, column, channel)] =
              valid ? from[static_cast<int64_t>(column) * args.C + channel - me.CopyChannel()] : Narrow<T>(0.f);
        }
        at = at + row_elements == ring_elements ? 0 : at + row_elements;
        from += image_row;
        ++y;
      }
    } else {
      // Loads under way side by side.
      for (int row = 0; row < count; row += kTogether) {
        const int next_at = at + row_elements == ring_elements ? 0 : at + row_elements;
        const bool two = kTogether == 2 && row + 1 < count;
        const T* const x_row = from - me.CopyChannel();
        DWS_ROLLED
        for (int i = IndexInGroup(args); i < args.in_columns * args.C; i += args.group_threads) {
          const int column = i / args.C, channel = i - column * args.C;
          const bool in_row = static_cast<unsigned>(place.InColumn(args) + column) < static_cast<unsigned>(args.W);
          T elements[kTogether];
          DWS_UNROLL
          for (int j = 0; j < kTogether; ++j) {
            const bool valid =
                in_row && (j == 0 || two) && static_cast<unsigned>(y + j) < static_cast<unsigned>(args.H);
            elements[j] = valid ? x_row[i + j * image_row] : Narrow<T>(0.f);
          }
          T* const to = ring + Ring::At(args, column, channel);
          to[at] = elements[0];
          if (two) to[next_at] = elements[kTogether - 1];
        }
        at = next_at;
        if (two) at = at + row_elements == ring_elements ? 0 : at + row_elements;
        from += (two ? 2 : 1) * image_row;
        y += two ? 2 : 1;
      }
    }
  }

  DWS_DEVICE void Pad(const StreamArgs& args, T* ring) const {
    const int pad = args.channels - args.C;
    if (pad == 0) return;
    const int row_elements = Ring::RowElements(args);
    for (int i = IndexInGroup(args); i < args.ring_rows * args.in_columns * pad; i += args.group_threads) {
      const int channel = args.C + i % pad, column = i / pad % args.in_columns, row = i / pad / args.in_columns;
      ring[row * row_elements + Ring::At(args, column, channel)] = Narrow<T>(0.f);
    }
  }
};

}  // namespace cuda
}  // namespace dwsconv

#endif  // DWSCONV_CUDA_FUSED_STREAM_PARTS_CUH_
