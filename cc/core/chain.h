// One call, described once: a chain of stages around a depthwise convolution, each of which may be missing.
//
//   A[n,h,w,c]  = expand( sum_e X[n,h,w,e] * expand_filter[e,c] + expand_bias[c] )                  or X
//   Z[n,p,q,cm] = mid( sum_{r,s} A[n, p*stride_h - pad_top + r*dilation_h, q*stride_w - pad_left + s*dilation_w, cm/M]
//                      * D[r,s,cm/M,cm%M] + depthwise_bias[cm] )                                    or A
//   Z           = gate[n,cm] * normalized(Z)                                                         or Z
//   Y[n,p,q,k]  = out( sum_{cm} Z[n,p,q,cm] * P[cm,k] + bias[k] + residual[n,p,q,k] )                or Z + residual
//
// A layer is depthwise + project. Without a depthwise stage the projection may be any dense convolution, R x S at
// strides. Taps outside the input are left out of the sum (not multiplied by zero), so a NaN in the filter does not
// leak in from the padding. All sizes are in elements and 64 bits wide. Infer (infer.h) makes chains, and has checked
// that every product of sizes fits.
#ifndef DWSCONV_CORE_CHAIN_H_
#define DWSCONV_CORE_CHAIN_H_

#include <cstdint>
#include <limits>

namespace dwsconv {

enum class DType : int { kFloat32 = 0, kBFloat16 = 1, kFloat16 = 2 };
enum class Layout : int { kNHWC = 0, kNCHW = 1 };

enum class ActivationKind : int {
  kNone = 0,
  kRelu,
  kRelu6,
  kHardSwish,
  kSilu,
  kGelu,  // exact, by erf
  kLeakyRelu,
  kSigmoid,
  kTanh,
  kElu,
  kMish,
  kGeluTanh,     // the approximation by tanh
  kBoundedRelu,  // relu and leaky_relu with a threshold, or with a slope and a largest value
  kPRelu,        // leaky_relu with one slope for each channel
};

// The activations that are min(max(x, low), high).
constexpr bool IsClamp(ActivationKind kind) {
  return kind == ActivationKind::kNone || kind == ActivationKind::kRelu || kind == ActivationKind::kRelu6;
}

// All that an activation is, but PReLU's slopes, which are weights. Each kind reads what its comment names.
struct Activation {
  ActivationKind kind = ActivationKind::kNone;
  float alpha = 0.2f;  // slope below zero of leaky_relu, below the threshold of kBoundedRelu; elu's factor below zero
  float max_value = std::numeric_limits<float>::infinity();  // of relu and kBoundedRelu
  float threshold = 0;                                       // of kBoundedRelu
  // What comes out is rounded to bfloat16 in the end: an error of activation_tables.h is allowed. It follows from the
  // dtype.
  bool coarse = false;
};

struct Chain {
  int64_t N = 0, H = 0, W = 0;  // batch, input rows and columns
  int64_t E = 0;                // channels of X where the chain begins with an expansion, a 1x1 convolution; else 0
  int64_t C = 0, M = 1, K = 0;  // channels of A, depth multiplier, output channels: C*M without a projection
  int64_t R = 0, S = 0;         // filter rows and columns, of the depthwise or the dense convolution
  int64_t groups = 1;           // of a dense convolution: output channels k read the input channels of group k*groups/K
  int64_t Ho = 0, Wo = 0;       // output rows and columns
  int64_t stride_h = 1, stride_w = 1;
  int64_t dilation_h = 1, dilation_w = 1;
  int64_t pad_top = 0, pad_left = 0;  // what is past the bottom and right follows from Ho and Wo
  DType dtype = DType::kFloat32;
  Layout layout = Layout::kNHWC;  // of X, residual and Y
  bool has_depthwise = true, has_project = true;
  Activation expand, mid, out;  // behind the expansion, the depthwise convolution and the projection
  bool has_expand_bias = false, has_depthwise_bias = false, has_bias = false;
  bool normalize = false;  // each pixel of Z to mean 0 and variance 1 over its channels
  float epsilon = 0;       // added to the variance
  bool has_gate = false;   // factors for each image and channel of Z: squeeze-excite
  bool has_residual = false;

  int64_t CM() const { return C * M; }
  int64_t x_channels() const { return E > 0 ? E : C; }
  int64_t output_pixels() const { return Ho * Wo; }  // of one image
  bool empty() const { return N == 0 || output_pixels() == 0; }
  // Whether the gate meets X itself: one product, which needs no Z in float.
  bool gates_input() const {
    return has_gate && !has_depthwise && E == 0 && !normalize && mid.kind == ActivationKind::kNone;
  }
  // Whether something stands between the two halves that needs Z in float whatever the dtype.
  bool float_between() const { return normalize || (has_gate && !gates_input()); }
};

// The chain with each channel of A repeated M times and one multiplier: filters and biases are the same in memory.
inline Chain Repeated(const Chain& chain) {
  Chain p = chain;
  p.C = chain.CM();
  p.M = 1;
  return p;
}

// What a chain reads and writes: element type `Chain::dtype`, dense. Null where there is no such stage.
struct Buffers {
  const void* input = nullptr;             // [N,H,W,E or C], or channels first
  const void* expand_filter = nullptr;     // [E,C]
  const void* expand_bias = nullptr;       // [C]
  const void* expand_slopes = nullptr;     // [C], where expand is PReLU
  const void* depthwise_filter = nullptr;  // [R,S,C,M]
  const void* depthwise_bias = nullptr;    // [C*M]
  const void* depthwise_slopes = nullptr;  // [C*M], where mid is PReLU
  const void* gate = nullptr;              // [N,C*M]
  const void* pointwise_filter = nullptr;  // [C*M,K]; of a dense convolution [R,S,C/groups,K]
  const void* bias = nullptr;              // [K]
  const void* slopes = nullptr;            // [K], where out is PReLU
  const void* residual = nullptr;          // as the output; may be the output's own buffer
  void* output = nullptr;                  // [N,Ho,Wo,K] or [N,K,Ho,Wo]
  // Elements from a pixel to the next; 0 where all are dense. Of inputs: where products read X as it is.
  int64_t input_step = 0, output_step = 0;
  // Of programs alone, where a dense convolution takes what its input is scaled and shifted by
  // (cc/cpu/run/scaled_filter.h); null elsewhere.
  const float* float_bias = nullptr;  // [K], in the place of bias
  const float* outside = nullptr;     // [S,C]: what the padding holds, in the place of zeros
};

// What the backward pass reads and writes, dense and of `Chain::dtype` like the forward pass' buffers. A gradient
// that nobody wants is null.
struct BackwardBuffers {
  const void* input = nullptr;
  const void* depthwise_filter = nullptr;
  const void* pointwise_filter = nullptr;
  const void* depthwise_bias = nullptr;
  const void* bias = nullptr;  // read where DerivativeFromInput(out), like residual
  const void* residual = nullptr;
  const void* output = nullptr;  // what the forward pass gave; read where out is neither none nor DerivativeFromInput
  const void* grad = nullptr;    // the loss by the output
  void* d_input = nullptr;
  void* d_depthwise_filter = nullptr;
  void* d_pointwise_filter = nullptr;
  void* d_depthwise_bias = nullptr;
  void* d_bias = nullptr;
  void* d_residual = nullptr;  // as the output
};

// Whether an activation's derivative takes what went into it. That of the others can be told from what came out.
constexpr bool DerivativeFromInput(const Activation& a) {
  switch (a.kind) {
    case ActivationKind::kHardSwish:
    case ActivationKind::kSilu:
    case ActivationKind::kGelu:
    case ActivationKind::kMish:
    case ActivationKind::kGeluTanh:
    case ActivationKind::kBoundedRelu:
      return true;
    case ActivationKind::kLeakyRelu:
    case ActivationKind::kElu:
      return a.alpha < 0;
    default:
      return false;
  }
}

inline int64_t SizeOf(DType t) { return t == DType::kFloat32 ? 4 : 2; }

}  // namespace dwsconv

#endif  // DWSCONV_CORE_CHAIN_H_
