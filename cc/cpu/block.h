// The forward pass of a block (cc/core/block.h): what the op of converted models calls.
#ifndef DWSCONV_CPU_BLOCK_H_
#define DWSCONV_CPU_BLOCK_H_

#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "cc/core/block.h"
#include "cc/cpu/forward.h"

namespace dwsconv {

// A block's filters and biases, of all its stages.
class PackedBlock : public Packed {
 public:
  PackedBlock(PackedFiltersPtr lead, PackedFiltersPtr main) : lead_(std::move(lead)), main_(std::move(main)) {}
  int64_t bytes() const override;
  const PackedFilters& lead() const { return *lead_; }
  const PackedFilters& main() const { return *main_; }

 private:
  PackedFiltersPtr lead_, main_;  // lead: null where none leads
};
using PackedBlockPtr = std::shared_ptr<const PackedBlock>;

// How many pixels the kernels take for one, where a block only scales and shifts channels that fill no vector: 16
// pixels of 3 channels are one of 48. 1 for all other blocks. Filters are packed for it.
int64_t PixelsTogether(const Block& block);

// Null when memory is out. Input, scale, residual and output are not read.
PackedBlockPtr PackBlock(const Block& block, Isa isa, const BlockBuffers& buffers);

// Computes the block, as Forward does a layer. `packed`, if not null, is of PackBlock for the same stages, filter
// sizes, dtype, ISA and PixelsTogether. options.variant and options.choice are not read.
std::string ForwardBlock(const Block& block, const BlockBuffers& buffers, const PackedBlock* packed,
                         const ForwardOptions& options);

// How often this process went a way of cutting a block that a 1x1 convolution leads, for tests; -1 for a word that is
// none. Of calls: "images", whole ones, all channels at a time; "pieces", whole ones, channels piece by piece;
// "channels", pieces of channels as tasks; "shares", those whose output channels were shared out, too; "strips", of
// rows. Of strips: "kept", those that found rows of A kept from the strip before.
int64_t ExpandWay(const std::string& way);

}  // namespace dwsconv

#endif  // DWSCONV_CPU_BLOCK_H_
