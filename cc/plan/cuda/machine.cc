#include "cc/plan/cuda/plan.h"

namespace dwsconv {

void SetClocks(int clock_khz, int memory_clock_khz, int memory_bits, CudaMachine* machine) {
  // Under load a card's clock is lower than the highest that it names: 1980 MHz are 1700 on an H200.
  if (clock_khz > 0) machine->clock_per_us = clock_khz * 1e-3 * 0.86;
  // Two transfers a clock. Of an H200's 4.9 TB/s a copy gets 4.3, of an H100's 3.35 it gets 3.0.
  if (memory_clock_khz > 0 && memory_bits > 0) {
    machine->dram_bytes_per_us = 2 * memory_clock_khz * 1e-3 * (memory_bits / 8) * 0.875;
  }
}

}  // namespace dwsconv
