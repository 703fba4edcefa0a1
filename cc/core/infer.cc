#include "cc/core/infer.h"

#include <algorithm>
#include <limits>

#include "cc/core/attributes.h"
#include "cc/core/words.h"

namespace dwsconv {
namespace {

bool Known(int64_t size) { return size != kUnknown; }
std::string Show(int64_t size) { return Known(size) ? std::to_string(size) : "?"; }

std::string Show(const Shape& shape) {
  if (!shape.sizes) return "<unknown>";
  std::string text = "[";
  for (size_t i = 0; i < shape.sizes->size(); ++i) text += (i > 0 ? "," : "") + Show((*shape.sizes)[i]);
  return text + "]";
}

// Whether two sizes may be the same one.
bool Agree(int64_t a, int64_t b) { return !Known(a) || !Known(b) || a == b; }
bool Agree(const std::vector<int64_t>& a, const std::vector<int64_t>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](int64_t x, int64_t y) { return Agree(x, y); });
}
// What is known of a size that both are.
int64_t Merge(int64_t a, int64_t b) { return Known(a) ? a : b; }

bool AtLeast1(int64_t size) { return !Known(size) || size >= 1; }
bool AtLeast1(const std::vector<int64_t>& sizes) {
  return std::all_of(sizes.begin(), sizes.end(), [](int64_t size) { return AtLeast1(size); });
}

// The product of non-negative factors, with 0 counted as 1: an empty tensor's other sizes must fit as well, for the
// kernels multiply them before they look at the batch. So is what is unknown. False where it does not fit.
bool ProductFits(std::initializer_list<int64_t> factors) {
  int64_t product = 1;
  for (int64_t factor : factors) {
    if (__builtin_mul_overflow(product, std::max<int64_t>(factor, 1), &product)) return false;
  }
  return true;
}

// One axis of the window arithmetic: fills *out and *pad_before and returns "", or what is wrong. `axis` ("height",
// "width") and `filter` word the message. before/after are read with EXPLICIT only.
std::string OutputSize(const char* axis, const char* filter, int64_t in, int64_t kernel, int64_t stride,
                       int64_t dilation, const std::string& padding, int64_t before, int64_t after, int64_t* out,
                       int64_t* pad_before) {
  const auto too_large = [&] {
    return "dilations, strides or explicit_paddings are too large along the " + std::string(axis) +
           ": the window's extent is past 64 bits (input " + std::to_string(in) + ", " + filter + " " +
           std::to_string(kernel) + ", dilation " + std::to_string(dilation) + ", stride " + std::to_string(stride) +
           ", padding " + std::to_string(before) + " and " + std::to_string(after) + ")";
  };
  int64_t window;  // input elements from the first tap to the last
  if (__builtin_mul_overflow(kernel - 1, dilation, &window) || __builtin_add_overflow(window, 1, &window)) {
    return too_large();
  }
  if (padding == "SAME") {
    *out = in / stride + (in % stride != 0 ? 1 : 0);
    *pad_before = 0;
    if (*out == 0) return "";
    int64_t covered;
    if (__builtin_add_overflow((*out - 1) * stride, window, &covered)) return too_large();
    *pad_before = std::max<int64_t>(covered - in, 0) / 2;
    return "";
  }
  if (padding == "VALID") before = after = 0;
  int64_t padded;
  if (__builtin_add_overflow(in, before, &padded) || __builtin_add_overflow(padded, after, &padded)) {
    return too_large();
  }
  if (padded < window) {
    return filter + std::string(" is larger than the input along the ") + axis + ": its window covers " +
           std::to_string(window) + " (size " + std::to_string(kernel) + ", dilation " + std::to_string(dilation) +
           "), the input has " + std::to_string(in) +
           (padding == "VALID" ? std::string(" and padding is \"VALID\"")
                               : ", " + std::to_string(padded) + " with its padding");
  }
  *out = (padded - window) / stride + 1;
  *pad_before = before;
  return "";
}

// The checks of one request, in the order in which they report; each returns what is wrong, or "".
class Inference {
 public:
  explicit Inference(const Request& request) : r_(request), nhwc_(request.data_format == "NHWC") {
    c_.has_depthwise = request.depthwise_filter.has_value();
    c_.has_project = request.pointwise_filter.has_value();
    c_.has_expand_bias = request.expand_bias.has_value();
    c_.has_depthwise_bias = request.depthwise_bias.has_value();
    c_.has_bias = request.bias.has_value();
    c_.has_gate = request.gate.has_value();
    c_.has_residual = request.residual.has_value();
    c_.groups = request.groups;
    c_.normalize = request.normalize;
    c_.epsilon = request.epsilon;
    c_.dtype = request.dtype;
    c_.layout = nhwc_ ? Layout::kNHWC : Layout::kNCHW;
    c_.stride_h = request.strides[0];
    c_.stride_w = request.strides[1];
    c_.dilation_h = request.dilations[0];
    c_.dilation_w = request.dilations[1];
    c_.expand = ToActivation(request.expand_activation, DType::kFloat32);
    c_.mid = ToActivation(request.depthwise_activation, DType::kFloat32);
    c_.out = ToActivation(request.activation, request.dtype);
    c_.expand.coarse = c_.mid.coarse = c_.out.coarse = c_.dtype == DType::kBFloat16;
  }

  std::string Run(Chain* chain) {
    using Check = std::string (Inference::*)();
    for (Check check : {&Inference::Input, &Inference::Expand, &Inference::Depthwise, &Inference::Project,
                        &Inference::Window, &Inference::Products, &Inference::Vectors, &Inference::Images}) {
      std::string error = (this->*check)();
      if (!error.empty()) return error;
    }
    *chain = c_;
    return "";
  }

 private:
  static constexpr const char* kPast = " is past 64 bits";

  // A tensor of 4 axes, all unknown where its rank is. `axes` words the message.
  static std::string Rank4(const char* name, const char* axes, const Shape& shape, int64_t (&sizes)[4]) {
    std::fill(sizes, sizes + 4, kUnknown);
    if (!shape.sizes) return "";
    const auto negative = [](int64_t size) { return Known(size) && size < 0; };
    if (shape.sizes->size() != 4 || std::any_of(shape.sizes->begin(), shape.sizes->end(), negative)) {
      return std::string(name) + " must have rank 4 (" + axes + "), but its shape is " + Show(shape);
    }
    std::copy(shape.sizes->begin(), shape.sizes->end(), sizes);
    return "";
  }

  static std::string TooLarge(const char* name, const Shape& shape) {
    return std::string(name) + " is too large: the size of shape " + Show(shape) + kPast;
  }

  std::string OutputText() const { return Show(Shape(OutputShape(c_))); }
  // The channels of what the first convolution reads, for messages.
  std::string ChannelsOf(const char* what) const {
    return Show(c_.C) + " as the channels of " + what + " (shape " + Show(chain_input_) + ", data_format " +
           r_.data_format + ")";
  }

  std::string Input() {
    int64_t x[4];
    const std::string error = Rank4(r_.input_name, nhwc_ ? "[N,H,W,C]" : "[N,C,H,W]", r_.input, x);
    c_.N = x[0];
    c_.H = x[nhwc_ ? 1 : 2];
    c_.W = x[nhwc_ ? 2 : 3];
    c_.C = x[nhwc_ ? 3 : 1];
    chain_input_ = r_.input;
    chain_input_name_ = r_.input_name;
    return error;
  }

  std::string Expand() {
    if (!r_.expand_filter) return "";
    int64_t f[4];
    std::string error = Rank4("expand_filter", "[1,1,E,C]", *r_.expand_filter, f);
    if (!error.empty()) return error;
    if (!Agree(f[0], 1) || !Agree(f[1], 1) || !Agree(f[2], c_.C) || !AtLeast1({f[2], f[3], c_.C})) {
      return "expand_filter must be [1,1,E,C] with E = " + Show(c_.C) + " as the channels of input (shape " +
             Show(r_.input) + ", data_format " + r_.data_format + "), E and C at least 1, but its shape is " +
             Show(*r_.expand_filter);
    }
    c_.E = Merge(c_.C, f[2]);
    c_.C = f[3];
    error = Vector("expand_bias", "C", &c_.C, r_.expand_bias);
    if (!error.empty()) return error;
    if (!ProductFits({c_.N, c_.H, c_.W, c_.E, 4})) return TooLarge(r_.input_name, r_.input);
    if (!ProductFits({c_.E, c_.C, 4})) return TooLarge("expand_filter", *r_.expand_filter);
    if (chain_input_.sizes) (*chain_input_.sizes)[nhwc_ ? 3 : 1] = c_.C;
    chain_input_name_ = "the expanded input";
    return "";
  }

  std::string Depthwise() {
    if (!r_.depthwise_filter) {
      c_.R = c_.S = 1;
      return "";
    }
    const Shape& shape = *r_.depthwise_filter;
    int64_t d[4], unused[4];
    std::string error = Rank4("depthwise_filter", "[R,S,C,M]", shape, d);
    if (error.empty() && r_.pointwise_filter) {
      error = Rank4("pointwise_filter", "[1,1,C*M,K]", *r_.pointwise_filter, unused);
    }
    if (!error.empty()) return error;
    if (!AtLeast1({d[0], d[1], d[2], d[3]})) {
      return "depthwise_filter must have no axis of size 0, but its shape is " + Show(shape);
    }
    if (!Agree(d[2], c_.C)) {
      return "depthwise_filter must be [R,S,C,M] with C = " + ChannelsOf(chain_input_name_) + ", but its shape is " +
             Show(shape);
    }
    c_.R = d[0];
    c_.S = d[1];
    c_.C = Merge(c_.C, d[2]);
    c_.M = d[3];
    int64_t cm;
    if (Known(c_.C) && Known(c_.M) && __builtin_mul_overflow(c_.C, c_.M, &cm)) {
      return "depthwise_filter has too many output channels: C*M of shape " + Show(shape) + kPast;
    }
    return "";
  }

  int64_t CM() const { return Known(c_.C) && Known(c_.M) ? c_.CM() : kUnknown; }

  std::string Project() {
    if (!r_.pointwise_filter) {
      c_.K = CM();
      return "";
    }
    const Shape& shape = *r_.pointwise_filter;
    if (!r_.depthwise_filter) return Dense(shape);
    int64_t p[4];
    const std::string error = Rank4("pointwise_filter", "[1,1,C*M,K]", shape, p);
    if (!error.empty()) return error;
    if (!Agree(p[0], 1) || !Agree(p[1], 1) || !Agree(p[2], CM()) || !AtLeast1({p[2], p[3]})) {
      return "pointwise_filter must be [1,1,C*M,K] with C*M = " + Show(CM()) + " (depthwise_filter's shape is " +
             Show(*r_.depthwise_filter) + ") and K at least 1, but its shape is " + Show(shape);
    }
    // Where one of C and M is unknown, their product tells.
    if (Known(p[2]) && Known(c_.C) && !Known(c_.M)) c_.M = p[2] / c_.C;
    if (Known(p[2]) && Known(c_.M) && !Known(c_.C)) c_.C = p[2] / c_.M;
    if (!Agree(p[2], CM())) {
      return "pointwise_filter must be [1,1,C*M,K], but C*M = " + Show(p[2]) + " of its shape " + Show(shape) +
             " is no multiple of what is known of depthwise_filter's shape " + Show(*r_.depthwise_filter);
    }
    c_.K = p[3];
    return "";
  }

  // A projection without a depthwise stage.
  std::string Dense(const Shape& shape) {
    int64_t f[4];
    const bool has_rank = Rank4("", "", shape, f).empty();
    const int64_t groups = c_.groups;
    const auto divides = [&](int64_t size) { return !Known(size) || size % groups == 0; };
    const int64_t in_group = Known(c_.C) ? c_.C / groups : kUnknown;
    if (!has_rank || !AtLeast1({f[0], f[1], f[2], f[3], c_.C}) || !divides(c_.C) || !divides(f[3]) ||
        !Agree(f[2], in_group)) {
      const bool one = groups == 1;
      return "pointwise_filter must be [R,S," + std::string(one ? "C" : "C/groups") +
             ",K] without depthwise_filter, with C = " + Show(c_.C) + " as the channels of " + chain_input_name_ +
             (one ? "" : ", C and K multiples of groups = " + std::to_string(groups)) +
             " and no axis of size 0, but its shape is " + Show(shape);
    }
    if (!ProductFits({f[0], f[1], f[2], groups, f[3], 4})) return TooLarge("pointwise_filter", shape);
    if (Known(f[2])) f[2] *= groups;
    c_.R = f[0];
    c_.S = f[1];
    c_.C = Merge(c_.C, f[2]);
    c_.K = f[3];
    const bool window = f[0] > 1 || f[1] > 1 || c_.stride_h > 1 || c_.stride_w > 1 || r_.padding == "EXPLICIT";
    for (const auto& [given, what] : {std::pair<bool, const char*>{r_.expand_filter.has_value(), "expand_filter"},
                                      {r_.gate.has_value(), r_.gate_name},
                                      {r_.normalize, "normalize"}}) {
      if (window && given) {
        return std::string(what) + " must not be given with a dense convolution: pointwise_filter (shape " +
               Show(shape) + ") must be 1 x 1, strides 1 and padding not explicit";
      }
    }
    return "";
  }

  // What SAME gives depends on the input's size alone, so an unknown filter counts as 1.
  std::string Window() {
    const char* const own = c_.has_depthwise || !c_.has_project ? "depthwise_filter" : "pointwise_filter";
    const char* const filter = r_.window_name != nullptr ? r_.window_name : own;
    const struct {
      const char* axis;
      int64_t in, kernel, stride, dilation, *out, *pad;
    } axes[] = {{"height", c_.H, c_.R, c_.stride_h, c_.dilation_h, &c_.Ho, &c_.pad_top},
                {"width", c_.W, c_.S, c_.stride_w, c_.dilation_w, &c_.Wo, &c_.pad_left}};
    const int64_t* pads = r_.padding == "EXPLICIT" ? r_.explicit_paddings.data() + (nhwc_ ? 2 : 4) : nullptr;
    for (const auto& a : axes) {
      *a.out = kUnknown;
      if (Known(a.in) && (Known(a.kernel) || r_.padding == "SAME")) {
        const std::string error = OutputSize(a.axis, filter, a.in, Known(a.kernel) ? a.kernel : 1, a.stride, a.dilation,
                                             r_.padding, pads ? pads[0] : 0, pads ? pads[1] : 0, a.out, a.pad);
        if (!error.empty()) return error;
      }
      if (pads) pads += 2;
    }
    return "";
  }

  // Every product of sizes that a kernel may form must fit, in bytes of float: even where a tensor is narrower,
  // scratch is float.
  std::string Products() {
    if (!ProductFits({c_.N, c_.H, c_.W, c_.C, 4})) return TooLarge(chain_input_name_, chain_input_);
    if (c_.has_depthwise && !ProductFits({c_.R, c_.S, c_.C, c_.M, 4})) {
      return TooLarge("depthwise_filter", *r_.depthwise_filter);
    }
    if (c_.has_project && !ProductFits({c_.C, c_.M, c_.K, 4})) {
      return TooLarge("pointwise_filter", *r_.pointwise_filter);
    }
    if (!ProductFits({c_.N, c_.Ho, c_.Wo, std::max(c_.K, CM()), 4})) {
      return "the output is too large: its shape " + OutputText() + ", or that with " + Show(CM()) +
             " channels in between, is past 64 bits (" + chain_input_name_ + " is " + Show(chain_input_) +
             ", explicit_paddings is " + dwsconv::Show(r_.explicit_paddings) + ")";
    }
    return "";
  }

  // A vector of `*size` elements, which it may tell. `axis` words the message.
  static std::string Vector(const std::string& name, const char* axis, int64_t* size,
                            const std::optional<Shape>& shape) {
    if (!shape || !shape->sizes) return "";
    if (shape->sizes->size() != 1 || !Agree((*shape->sizes)[0], *size)) {
      return name + " must have shape [" + axis + "] = [" + Show(*size) + "], but its shape is " + Show(*shape);
    }
    *size = Merge(*size, (*shape->sizes)[0]);
    return "";
  }

  std::string Vectors() {
    int64_t cm = CM();
    std::string error = Vector("depthwise_bias", "C*M", &cm, r_.depthwise_bias);
    if (error.empty()) error = Vector("bias", "K", &c_.K, r_.bias);
    if (error.empty()) error = Vector("depthwise_slopes", "C*M", &cm, r_.depthwise_activation.slopes);
    if (error.empty()) error = Vector("slopes", "K", &c_.K, r_.activation.slopes);
    if (error.empty()) error = Vector("expand_slopes", "C", &c_.C, r_.expand_activation.slopes);
    return error;
  }

  // The residual and the gate, which go with the images.
  std::string Images() {
    const std::vector<int64_t> output = OutputShape(c_);
    if (r_.residual && r_.residual->sizes) {
      const std::vector<int64_t>& given = *r_.residual->sizes;
      if (!Agree(given, output)) {
        return "residual must have the output's shape " + OutputText() + ", but its shape is " + Show(*r_.residual);
      }
      c_.N = Merge(c_.N, given[0]);
      c_.Ho = Merge(c_.Ho, given[nhwc_ ? 1 : 2]);
      c_.Wo = Merge(c_.Wo, given[nhwc_ ? 2 : 3]);
      c_.K = Merge(c_.K, given[nhwc_ ? 3 : 1]);
    }
    if (r_.gate && r_.gate->sizes) {
      const std::vector<int64_t> flat = {c_.N, CM()};
      const std::vector<int64_t> wide =
          nhwc_ ? std::vector<int64_t>{c_.N, 1, 1, CM()} : std::vector<int64_t>{c_.N, CM(), 1, 1};
      if (!Agree(*r_.gate->sizes, flat) && !Agree(*r_.gate->sizes, wide)) {
        return std::string(r_.gate_name) + " must have shape " + Show(Shape(flat)) + " or " + Show(Shape(wide)) +
               ", but its shape is " + Show(*r_.gate);
      }
      c_.N = Merge(c_.N, (*r_.gate->sizes)[0]);
    }
    return "";
  }

  const Request& r_;
  const bool nhwc_;
  Chain c_;
  Shape chain_input_;  // of what follows an expansion
  const char* chain_input_name_ = "";
};

}  // namespace

bool Shape::Known() const { return sizes && std::count(sizes->begin(), sizes->end(), kUnknown) == 0; }

std::string Infer(const Request& request, Chain* chain) {
  std::string error = CheckAttributes(request);
  return error.empty() ? Inference(request).Run(chain) : error;
}

std::vector<int64_t> OutputShape(const Chain& c) {
  if (c.layout == Layout::kNHWC) return {c.N, c.Ho, c.Wo, c.K};
  return {c.N, c.K, c.Ho, c.Wo};
}

int64_t Flops(const Chain& c) {
  // One multiply-add counts two. Sizes are checked one tensor at a time, so the product of all may pass 64 bits.
  const auto product = [](std::initializer_list<int64_t> factors, int64_t* to) {
    *to = 1;
    bool past = false;
    for (int64_t factor : factors) past = __builtin_mul_overflow(*to, factor, to) || past;
    return past;
  };
  if (c.empty()) return 0;
  int64_t expand, depthwise, project, sum;
  bool past = product({2, c.N, c.H, c.W, c.E, c.C}, &expand);
  past |= product({2, c.N, c.Ho, c.Wo, c.CM(), c.has_depthwise ? c.R * c.S : 0}, &depthwise);
  past |= product({2, c.N, c.Ho, c.Wo, c.CM() / c.groups, c.has_project ? c.K : 0, c.has_depthwise ? 1 : c.R * c.S},
                  &project);
  past |= __builtin_add_overflow(expand, depthwise, &sum) || __builtin_add_overflow(sum, project, &sum);
  return past ? std::numeric_limits<int64_t>::max() : sum;
}

}  // namespace dwsconv
