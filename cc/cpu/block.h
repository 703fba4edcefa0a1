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
  PackedBlock(const PackKey& key, PackedFiltersPtr lead, PackedFiltersPtr main)
      : key_(key), lead_(std::move(lead)), main_(std::move(main)) {}
  int64_t bytes() const override;
  const PackKey& key() const { return key_; }
  const PackedFilters& lead() const { return *lead_; }
  const PackedFilters& main() const { return *main_; }

 private:
  PackKey key_;
  PackedFiltersPtr lead_, main_;  // lead: null where none leads
};
using PackedBlockPtr = std::shared_ptr<const PackedBlock>;

// Null when memory is out. Input, scale, residual and output are not read.
PackedBlockPtr PackBlock(const Block& block, Isa isa, const BlockBuffers& buffers);

// Of filters that PackBlock would pack.
PackKey PackKeyOf(const Block& block, Isa isa);

// Computes the block, as Forward does a layer. `packed` may be null, or of another key: then the filters are packed for
// this call. options.variant and options.choice are not read.
std::string ForwardBlock(const Block& block, const BlockBuffers& buffers, const PackedBlock* packed,
                         const ForwardOptions& options);

// How often this process went a way of cutting a block that a 1x1 convolution leads, for tests; -1 for a word that is
// none. Of calls: "images", whole ones, all channels at a time; "pieces", whole ones, channels piece by piece;
// "channels", pieces of channels as tasks; "shares", those whose output channels were shared out, too; "strips", of
// rows. Of strips: "kept", those that found rows of A kept from the strip before.
int64_t ExpandWay(const std::string& way);

}  // namespace dwsconv

#endif  // DWSCONV_CPU_BLOCK_H_
