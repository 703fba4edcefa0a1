#include "cc/core/program_file.h"

#include <sys/stat.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <exception>
#include <memory>
#include <unordered_map>
#include <vector>

#include "cc/core/huge_pages.h"
#include "cc/core/json.h"
#include "cc/core/program_infer.h"
#include "cc/core/program_text.h"

namespace dwsconv {
namespace {

constexpr const char kTextKey[] = "tf_dwsconv.program";
constexpr uint64_t kMostHeaderBytes = uint64_t{32} << 20;

struct CloseFile {
  void operator()(std::FILE* file) const { std::fclose(file); }
};

const char* FileWord(DType dtype) {
  return dtype == DType::kFloat32 ? "F32" : dtype == DType::kBFloat16 ? "BF16" : "F16";
}

// One tensor of the header against the weight of its name.
std::string CheckTensor(const std::string& name, const Json& tensor, const ProgramWeight& weight, DType dtype) {
  const std::string what = "tensor " + Quote(name) + " of the file";
  if (!tensor.is_object() || tensor.size() != 3 || !tensor.contains("dtype") || !tensor.contains("shape") ||
      !tensor.contains("data_offsets")) {
    return what + " must have dtype, shape and data_offsets";
  }
  if (tensor["dtype"] != FileWord(dtype)) return what + " must have dtype " + FileWord(dtype) + ", as the program has";
  if (tensor["shape"] != Json(weight.shape)) return what + " must have shape " + ShowShape(weight.shape);
  const int64_t begin = weight.offset * SizeOf(dtype), end = begin + Elements(weight.shape) * SizeOf(dtype);
  if (tensor["data_offsets"] != Json({begin, end})) {
    return what + " must have data_offsets [" + std::to_string(begin) + "," + std::to_string(end) + "]";
  }
  return "";
}

std::string ReadHeader(const std::string& header, int64_t bytes, Program* program) {
  Json json;
  std::string error = ParseJson(header, "the header", &json);
  if (!error.empty()) return error;
  if (!json.is_object() || !json.contains("__metadata__") || !json["__metadata__"].is_object() ||
      !json["__metadata__"].contains(kTextKey) || !json["__metadata__"][kTextKey].is_string()) {
    return std::string("the header must have ") + kTextKey + " in __metadata__: this is no file of a program";
  }
  error = ParseProgram(json["__metadata__"][kTextKey].get_ref<const std::string&>(), program);
  if (error.empty()) error = CheckLoaded(*program);
  if (!error.empty()) return error;
  if (program->weight_count * SizeOf(program->dtype) != bytes) {
    return "the weights must have " + std::to_string(program->weight_count) + " elements, " +
           std::to_string(program->weight_count * SizeOf(program->dtype)) + " bytes; given " + std::to_string(bytes);
  }
  std::unordered_map<std::string, const ProgramWeight*> weights;
  for (const ProgramWeight& weight : program->weights) weights[weight.name] = &weight;
  for (const auto& item : json.items()) {
    if (item.key() == "__metadata__") continue;
    const auto found = weights.find(item.key());
    if (found == weights.end()) return "tensor " + Quote(item.key()) + " of the file must be a weight of the program";
    error = CheckTensor(item.key(), item.value(), *found->second, program->dtype);
    if (!error.empty()) return error;
    weights.erase(found);
  }
  if (weights.empty()) return "";
  return "weight " + Quote(weights.begin()->first) + " of the program must be a tensor of the file";
}

std::string ReadAll(std::FILE* file, LoadedProgram* loaded) {
  // The size first: what a header promises is not there to be allocated.
  if (std::fseek(file, 0, SEEK_END) != 0) return "it cannot be read";
  const int64_t size = std::ftell(file);
  unsigned char length[8];
  if (size < 8 || std::fseek(file, 0, SEEK_SET) != 0 || std::fread(length, 1, 8, file) != 8) {
    return "it must begin with the 8 bytes of a header's length";
  }
  uint64_t header_bytes = 0;
  for (int i = 7; i >= 0; --i) header_bytes = header_bytes << 8 | length[i];
  if (header_bytes > kMostHeaderBytes || static_cast<int64_t>(header_bytes) > size - 8) {
    return "the header's length must be at most that of the rest, " + std::to_string(size - 8) + ", and at most " +
           std::to_string(kMostHeaderBytes) + "; given " + std::to_string(header_bytes);
  }
  std::string header(header_bytes, '\0');
  if (std::fread(header.data(), 1, header.size(), file) != header.size()) return "its header cannot be read";
  const int64_t bytes = size - 8 - static_cast<int64_t>(header_bytes);
  const std::string error = ReadProgramHeader(header, bytes, &loaded->program);
  if (!error.empty()) return error;
  loaded->weights = AllocateAligned<char>(bytes);
  if (loaded->weights == nullptr) return "out of memory for " + std::to_string(bytes) + " bytes of weights";
  PreferHugePages(loaded->weights.get(), bytes);
  if (std::fread(loaded->weights.get(), 1, static_cast<size_t>(bytes), file) != static_cast<size_t>(bytes)) {
    return "its weights cannot be read";
  }
  return "";
}

}  // namespace

std::string CheckLoaded(const Program& program) {
  InferredProgram unused;
  return InferProgram(program, {}, &unused);
}

std::string ReadProgramHeader(const std::string& header, int64_t bytes, Program* program) {
  try {
    return ReadHeader(header, bytes, program);
  } catch (const std::exception& error) {  // no memory
    return std::string("out of memory: ") + error.what();
  }
}

std::string ReadProgramFile(const std::string& path, LoadedProgram* loaded) {
  *loaded = LoadedProgram();
  try {
    struct stat about;
    if (stat(path.c_str(), &about) == 0 && !S_ISREG(about.st_mode)) return path + " must be a file";  // a pipe blocks
    const std::unique_ptr<std::FILE, CloseFile> file(std::fopen(path.c_str(), "rb"));
    if (file == nullptr) return "cannot open " + path + ": " + std::strerror(errno);
    const std::string error = ReadAll(file.get(), loaded);
    return error.empty() ? "" : path + " is no file of a program: " + error;
  } catch (const std::exception& error) {
    return path + " cannot be read: " + error.what();
  }
}

}  // namespace dwsconv
