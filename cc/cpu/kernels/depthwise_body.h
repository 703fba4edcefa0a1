// The depthwise half of a tile: X (NHWC, elements T) to Z. Part of a kernel's translation unit: include after
// depthwise_window_body.h.
#ifndef DWSCONV_CPU_KERNELS_DEPTHWISE_BODY_H_
#define DWSCONV_CPU_KERNELS_DEPTHWISE_BODY_H_

#include "cc/cpu/kernels/kernel_table.h"

namespace dwsconv {
namespace {

// Output pixels [q, q_end) of one row.
template <typename T, typename Z>
void RowSegment(const Chain& p, const DepthwiseRow<T>& row, int64_t q, int64_t q_end, Z* z) {
  int64_t inside, outside;
  SplitRow(p, q, q_end, &inside, &outside);
  EdgePixels<T, Z>(p, row, q, inside, z);
  if (outside > inside) {
    const T* x = row.x + (inside * p.stride_w - p.pad_left) * p.C;
    Z* to = z + (inside - q) * row.z_stride;
    if (row.packed_pixels > 0) {
      PackedRun<T, Z>(row, x, outside - inside, to);
    } else {
      GeneralRun<T, Z>(row, x, outside - inside, 0, p.S, to);
    }
  }
  EdgePixels<T, Z>(p, row, outside, q_end, z + (outside - q) * row.z_stride);
}

// Output rows [first, last), of one sub-filter.
template <typename T>
struct DepthwiseRows {
  const Chain* p;
  const T* image;
  const float* filter;         // of tap row 0
  const float* packed_filter;  // likewise, where pixels are packed
  int64_t first, last;
  DepthwiseRow<T> row;

  // Of one output row: its first tap inside the image, and how many there are. Without any, x is not read, but points
  // into the image all the same.
  void Select(int64_t out_row) {
    const int64_t h = out_row * p->stride_h - p->pad_top;
    int64_t r0, r1;
    TapRange(h, p->R, p->dilation_h, p->H, &r0, &r1);
    row.rows = r1 - r0;
    row.x = image + (row.rows > 0 ? (h + r0 * p->dilation_h) * p->W * p->C : 0);
    row.filter = filter + r0 * p->S * kV;
    row.packed_filter = packed_filter + r0 * p->S * kV;
  }
};

// Whether channels go in pairs of vectors (depthwise_pairs_body.h), and the taps of the largest filter that do.
template <typename T>
constexpr bool kPairsOf = false;
#ifdef __AVX512BF16__
template <>
constexpr bool kPairsOf<BFloat16> = true;
#endif
constexpr int64_t kMostPairTaps = 49;

template <typename T, typename Z, int kS, int kStride, int kPixels, int kLeft, int kRight>
void PairStrip(DepthwiseRows<T>* rows, int64_t q, int64_t c, int64_t c_end, Z* z);

// kPixels output columns from q on, of whose inputs kLeft and kRight columns lie outside the row; channels [c, c_end),
// of all rows. An input line that several output rows read comes out of L2 once, and out of L1 for the others: hence a
// strip's few columns through all the rows, not row by row.
template <typename T, typename Z, int kS, int kStride, int kPixels, int kLeft, int kRight>
void StripChannels(DepthwiseRows<T>* rows, int64_t q, int64_t c, int64_t c_end, Z* z) {
  constexpr bool kGroups = kS == 3 && kStride == 1 && kPixels <= kGroupPixels;
  constexpr int kGroup = kGroups ? kGroupRows : 1;
  const Chain& p = *rows->p;
  if constexpr (kPairsOf<T>) {
    const int64_t end = p.R * kS <= kMostPairTaps ? c + (c_end - c) / (2 * kV) * (2 * kV) : c;
    if (c < end) PairStrip<T, Z, kS, kStride, kPixels, kLeft, kRight>(rows, q, c, end, z);
    c = end;
    if (c == c_end) return;
  }
  const int64_t x_at = (q * kStride - p.pad_left) * p.C, z_row = p.Wo * rows->row.z_stride;
  for (int64_t out_row = rows->first; out_row < rows->last;) {
    Z* to = z + (out_row - rows->first) * z_row;
    rows->Select(out_row);
    if constexpr (kGroup > 1) {
      const int64_t h = out_row * p.stride_h - p.pad_top;
      if (p.R == kS && p.stride_h == kStride && out_row + kGroup <= rows->last && h >= 0 &&
          h + (kGroup - 1) * kStride + kS <= p.H) {
        GroupPixels<T, Z, kS, kStride, kGroup, kPixels, kLeft, kRight>(rows->row, rows->row.x + x_at, c, c_end, to,
                                                                       z_row);
        out_row += kGroup;
        continue;
      }
    }
    InteriorPixels<T, Z, kS, kStride, kPixels, kLeft, kRight>(rows->row, rows->row.x + x_at, c, c_end, to);
    ++out_row;
  }
}

// Output columns [q, q + kPixels) of all rows, in runs of channels that stay in L1 from row to row.
template <typename T, typename Z, int kS, int kStride, int kPixels, int kLeft = 0, int kRight = 0>
void Strip(DepthwiseRows<T>* rows, int64_t q, Z* z) {
  const Chain& p = *rows->p;
  const int64_t lines = ((kPixels - 1) * kStride + kS + kS) * p.R;
  constexpr int64_t kStep = kPairsOf<T> ? 2 * kV : kV;
  const int64_t run = Max(1, kNearBytes / (lines * kStep * static_cast<int64_t>(sizeof(float)))) * kStep;
  for (int64_t c = 0; c < p.C; c += run) {
    StripChannels<T, Z, kS, kStride, kPixels, kLeft, kRight>(rows, q, c, Min(p.C, c + run), z);
  }
}

// Output columns [q, q_end) of all rows, whose windows cross an edge of their rows. z is column q of the first row.
// Where the windows lie inside the image vertically, a column's pixels share the taps that exist, so they go together.
template <typename T, typename Z>
void EdgeColumns(DepthwiseRows<T>* rows, int64_t q, int64_t q_end, Z* z) {
  if (q >= q_end) return;
  const Chain& p = *rows->p;
  const int64_t z_row = p.Wo * rows->row.z_stride;
  const int64_t room = p.H + p.pad_top - (p.R - 1) * p.dilation_h - 1;
  const int64_t inside = Min(rows->last, Max(rows->first, CeilDiv(p.pad_top, p.stride_h)));
  const int64_t outside = room < 0 ? inside : Min(rows->last, Max(inside, room / p.stride_h + 1));
  for (int64_t out_row = rows->first; out_row < rows->last; ++out_row) {
    if (out_row == inside) out_row = outside;
    if (out_row >= rows->last) break;
    rows->Select(out_row);
    EdgePixels<T, Z>(p, rows->row, q, q_end, z + (out_row - rows->first) * z_row);
  }
  if (inside >= outside) return;
  rows->Select(inside);
  DepthwiseRow<T> column = rows->row;
  column.pixel_step = p.stride_h * p.W * p.C;
  column.z_stride = z_row;
  z += (inside - rows->first) * z_row;
  for (; q < q_end; ++q, z += rows->row.z_stride) {
    const int64_t w = q * p.stride_w - p.pad_left;
    int64_t s0, s1;
    TapRange(w, p.S, p.dilation_w, p.W, &s0, &s1);
    GeneralRun<T, Z>(column, column.x + w * p.C, outside - inside, s0, s1, z);
  }
}

// Columns at an edge of the rows, with neighbours to make it kEdgePixels: four sums, each of which waits for the one
// before less than one alone would.
constexpr int kEdgePixels = 4;
// Rows of so many columns at once, or of whole strips of as many: the sizes of most networks for 224 pixels.
constexpr int kWholeRow = 7;

// All columns of rows of two strips or more, with kLeft and kRight columns outside.
template <typename T, typename Z, int kS, int kStride, int kPixels, int kLeft, int kRight>
void WholeRows(DepthwiseRows<T>* rows, Z* z) {
  const int64_t last = rows->p->Wo - kPixels, z_stride = rows->row.z_stride;
  Strip<T, Z, kS, kStride, kPixels, kLeft>(rows, 0, z);
  for (int64_t q = kPixels; q < last; q += kPixels) Strip<T, Z, kS, kStride, kPixels>(rows, q, z + q * z_stride);
  Strip<T, Z, kS, kStride, kPixels, 0, kRight>(rows, last, z + last * z_stride);
}

// Output columns [q, q_end) of all rows. z is column q of the first row.
template <typename T, typename Z, int kS, int kStride>
void Strips(DepthwiseRows<T>* rows, int64_t q, int64_t q_end, Z* z) {
  // Pairs go row by row; with few registers left, more columns of a row are the better.
  constexpr bool kGroups = kS == 3 && kStride == 1 && kGroupRows > 1 && !kPairsOf<T>;
  constexpr int kPixels = kGroups ? kGroupPixels : kDepthwisePixels;
  // Columns outside with "SAME"; one less on the left at a stride, where rows are of an even length.
  constexpr int kEdge = kS / 2, kLess = kEdge - 1, kLeft = kStride == 1 ? kEdge : kLess;
  const Chain& p = *rows->p;
  const int64_t z_stride = rows->row.z_stride;
  const int64_t left = p.pad_left, right = (p.Wo - 1) * kStride - left + kS - p.W;
  if (q == 0 && q_end == p.Wo && left == kLeft && right == kEdge) {
    if (p.Wo == kWholeRow) return Strip<T, Z, kS, kStride, kWholeRow, kLeft, kEdge>(rows, 0, z);
    if (p.Wo % kWholeRow == 0) return WholeRows<T, Z, kS, kStride, kWholeRow, kLeft, kEdge>(rows, z);
    if (kPixels == 8 && p.Wo % kPixels == 0 && p.Wo > kPixels) {
      return WholeRows<T, Z, kS, kStride, kPixels, kLeft, kEdge>(rows, z);
    }
  }
  int64_t inside, outside;
  SplitRow(p, q, q_end, &inside, &outside);
  int64_t from = inside, to = outside;  // whose windows lie inside, and which no group at an edge takes
  const bool left_group = q == 0 && inside > 0 && inside <= kEdgePixels && kEdgePixels <= outside;
  if (left_group && left == kEdge) {
    Strip<T, Z, kS, kStride, kEdgePixels, kEdge>(rows, 0, z);
    from = kEdgePixels;
  } else if (left_group && kStride == 2 && kLess > 0 && left == kLess) {
    Strip<T, Z, kS, kStride, kEdgePixels, kLess>(rows, 0, z);
    from = kEdgePixels;
  } else {
    EdgeColumns<T, Z>(rows, q, inside, z);
  }
  const int64_t last = q_end - kEdgePixels;
  if (q_end == p.Wo && outside < q_end && right == kEdge && last >= inside && last <= outside) {
    Strip<T, Z, kS, kStride, kEdgePixels, 0, kEdge>(rows, last, z + (last - q) * z_stride);
    to = last;
  } else {
    EdgeColumns<T, Z>(rows, outside, q_end, z + (outside - q) * z_stride);
  }
  z += (from - q) * z_stride;
  q = from;
  constexpr int kHalved = kPixels == 7 ? 8 : 0;  // columns that are rather 4 + 4 than 7 + 1
  for (; to - q >= kPixels && to - q != kHalved; q += kPixels, z += kPixels * z_stride) {
    Strip<T, Z, kS, kStride, kPixels>(rows, q, z);
  }
  for (; to - q >= 4; q += 4, z += 4 * z_stride) Strip<T, Z, kS, kStride, 4>(rows, q, z);
  for (; to - q >= 2; q += 2, z += 2 * z_stride) Strip<T, Z, kS, kStride, 2>(rows, q, z);
  if (q < to) Strip<T, Z, kS, kStride, 1>(rows, q, z);
}

// The loops compiled for a filter's width and stride; null for those that have none of their own.
template <typename T, typename Z>
inline auto StripsOf(const Chain& p) -> void (*)(DepthwiseRows<T>*, int64_t, int64_t, Z*) {
  if (p.dilation_w != 1 || p.dilation_h != 1) return nullptr;
  switch (p.S * 4 + Min(p.stride_w, 3)) {
    case 3 * 4 + 1:
      return Strips<T, Z, 3, 1>;
    case 3 * 4 + 2:
      return Strips<T, Z, 3, 2>;
    case 5 * 4 + 1:
      return Strips<T, Z, 5, 1>;
    case 5 * 4 + 2:
      return Strips<T, Z, 5, 2>;
    case 7 * 4 + 1:
      return Strips<T, Z, 7, 1>;
    case 7 * 4 + 2:
      return Strips<T, Z, 7, 2>;
    default:
      return nullptr;
  }
}

// kPackedRows whole rows of packed pixels from out_row on, where the filter is 3x3 and all windows lie inside the image
// vertically; z is the first pixel. False where they are not such rows.
template <typename T, typename Z>
bool PackedRowsFit(DepthwiseRows<T>* rows, int64_t out_row, int64_t inside, int64_t outside, Z* z) {
  const Chain& p = *rows->p;
  const int64_t h = out_row * p.stride_h - p.pad_top;
  if (rows->row.packed_pixels == 0 || p.R != 3 || p.S != 3 || p.stride_h != 1 || p.dilation_h != 1 ||
      outside - inside < rows->row.packed_pixels || out_row + kPackedRows > rows->last || h < 0 ||
      h + kPackedRows + 2 > p.H) {
    return false;
  }
  const int64_t z_row = p.Wo * rows->row.z_stride, at = inside * rows->row.z_stride;
  // A row's last pixels spill into the next row's first, the first into those after them: so in this order.
  for (int g = 0; g < kPackedRows; ++g) {
    rows->Select(out_row + g);
    PackedRest<T, Z>(rows->row, rows->row.x + (inside - p.pad_left) * p.C, outside - inside, z + g * z_row + at);
    EdgePixels<T, Z>(p, rows->row, outside, p.Wo, z + g * z_row + outside * rows->row.z_stride);
  }
  for (int g = 0; g < kPackedRows; ++g) {
    rows->Select(out_row + g);
    EdgePixels<T, Z>(p, rows->row, 0, inside, z + g * z_row);
  }
  rows->Select(out_row);
  PackedRows<T, Z>(rows->row, rows->row.x + (inside - p.pad_left) * p.C, outside - inside, z + at, z_row);
  return true;
}

constexpr int64_t kLineFloats = 16;  // of a cache line

// The same for windows without loops of their own, in runs of channels whose windows stay in L1 from group to group.
template <typename T, typename Z>
void WindowRows(const DepthwiseRows<T>& rows, int64_t q, int64_t q_end, Z* z) {
  const Chain& p = *rows.p;
  const int64_t columns = (kWindowPixels - 1) * p.stride_w + 2 * p.S;
  const int64_t vectors = kNearBytes / (kV * static_cast<int64_t>(sizeof(float))) / (Min(columns, kNearBytes) * p.R);
  const int64_t run = Max(kLineFloats / kV, Max(1, vectors)) * kV;
  for (int64_t c = 0; c < p.C; c += run) {
    DepthwiseRows<T> part = rows;
    part.image += c;
    part.filter += c * rows.row.taps;
    part.row.bias += c;
    part.row.C = Min(run, p.C - c);
    Z* to = z + c;
    for (int64_t out_row = rows.first; out_row < rows.last; ++out_row, to += p.Wo * rows.row.z_stride) {
      part.Select(out_row);
      RowSegment<T, Z>(p, part.row, q, q_end, to);
    }
  }
}

// Output columns [q, q_end) of the rows of `rows`; more than one row only if they are whole.
template <typename T, typename Z>
void RowsSegment(DepthwiseRows<T>* rows, int64_t q, int64_t q_end, Z* z) {
  const Chain& p = *rows->p;
  const int64_t z_row = p.Wo * rows->row.z_stride;
  const auto strips = rows->row.packed_pixels > 0 ? nullptr : StripsOf<T, Z>(p);
  if (strips != nullptr) return strips(rows, q, q_end, z);
  if (rows->row.packed_pixels == 0) return WindowRows<T, Z>(*rows, q, q_end, z);
  int64_t inside, outside;
  SplitRow(p, q, q_end, &inside, &outside);
  for (int64_t out_row = rows->first; out_row < rows->last; ++out_row, z += z_row) {
    if (q == 0 && q_end == p.Wo && PackedRowsFit(rows, out_row, inside, outside, z)) {
      out_row += kPackedRows - 1;
      z += (kPackedRows - 1) * z_row;
      continue;
    }
    rows->Select(out_row);
    RowSegment<T, Z>(p, rows->row, q, q_end, z);
  }
}

// A filter of one tap treats all pixels alike where nothing is padded: the image is one long row, so that nothing is
// decided for each of its rows.
inline Chain AsRows(const Chain& chain) {
  Chain p = chain;
  if (p.R != 1 || p.S != 1 || p.stride_h != 1 || p.stride_w != 1 || p.Ho != p.H || p.Wo != p.W) return p;
  p.W = p.Wo = p.H * p.W;
  p.H = p.Ho = 1;
  return p;
}

template <typename T, typename Z>
void Depthwise(const DepthwiseArgs& a) {
  const Chain p = AsRows(*a.chain);
  DepthwiseRows<T> rows;
  rows.p = &p;
  rows.image = static_cast<const T*>(a.image);
  DepthwiseRow<T>& row = rows.row;
  row.row_step = p.dilation_h * p.W * p.C;
  row.tap_step = p.dilation_w * p.C;
  row.pixel_step = p.stride_w * p.C;
  row.C = p.C;
  row.taps = p.R * p.S;
  row.S = p.S;
  row.clamp = MakeClamp(p.mid);
  row.plain = p.mid.kind == ActivationKind::kNone;
  row.z_stride = a.z_stride;
  row.packed_pixels = a.packed_pixels;
  row.packed_bias = a.packed_bias;
  rows.packed_filter = a.packed_filter;
  [[maybe_unused]] const bool post = !IsClamp(p.mid.kind);
  int64_t q = a.first_pixel % p.Wo, left = a.pixels;
  rows.first = a.first_pixel / p.Wo;
  // The end of a row that began in another block, whole rows, the beginning of a row.
  for (Z* z = static_cast<Z*>(a.z); left > 0; q = 0) {
    const int64_t whole = q == 0 ? left / p.Wo : 0;
    const int64_t q_end = whole > 0 ? p.Wo : Min(q + left, p.Wo), run = whole > 0 ? whole * p.Wo : q_end - q;
    rows.last = rows.first + Max(whole, 1);
    // Sub-filters in rising order: the last vector of one may spill into the first channels of the next.
    for (int64_t m = 0; m < p.M; ++m) {
      rows.filter = a.filter + m * a.channel_stride * row.taps;
      row.bias = a.bias + m * a.channel_stride;
      RowsSegment<T, Z>(&rows, q, q_end, z + m * p.C);
    }
    // A Z of 16 bits is rounded as it is stored, so its activation must be a clamp: dispatch sees to it.
    if constexpr (sizeof(Z) == sizeof(float)) {
      if (p.mid.kind == ActivationKind::kPRelu) {
        for (int64_t i = 0; i < run; ++i) PReluRow(z + i * a.z_stride, a.slopes, p.C * p.M);
      } else if (post) {
        if (a.z_stride == p.C) {  // dense: one long row, whose spill is activated too and then overwritten
          ActivateRow(z, CeilDiv(run * p.C, kV) * kV, p.mid);
        } else {
          for (int64_t i = 0; i < run; ++i) ActivateRow(z + i * a.z_stride, CeilDiv(p.C * p.M, kV) * kV, p.mid);
        }
      }
    }
    z += run * a.z_stride;
    left -= run;
    rows.first = rows.last;
  }
}

}  // namespace
}  // namespace dwsconv

#endif  // DWSCONV_CPU_KERNELS_DEPTHWISE_BODY_H_
