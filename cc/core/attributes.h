// The attributes of a request: what can be judged without shapes. Infer calls it.
#ifndef DWSCONV_CORE_ATTRIBUTES_H_
#define DWSCONV_CORE_ATTRIBUTES_H_

#include <string>

#include "cc/core/infer.h"

namespace dwsconv {

// "" or what is wrong with lengths, ranges and words, or with which tensors there are.
std::string CheckAttributes(const Request& request);

// What is wrong with an activation, or "". `stage` is what its arguments' names begin with.
std::string CheckActivation(const std::string& stage, const ActivationRequest& request);

// Likewise with the epsilon of a norm.
std::string CheckEpsilon(float epsilon);

// The activation of a request that is right. Where its result is stored as `dtype`, so is its largest value: the
// derivative can be told from what is stored.
Activation ToActivation(const ActivationRequest& request, DType dtype);

}  // namespace dwsconv

#endif  // DWSCONV_CORE_ATTRIBUTES_H_
