// What a multiprocessor does in a cycle, with what is usually lost already taken off: fitted to what
// cuda/bench/sweep.py measured on an NVIDIA H200 (docs/cuda_measured.md).
#ifndef DWSCONV_PLAN_CUDA_RATES_H_
#define DWSCONV_PLAN_CUDA_RATES_H_

namespace dwsconv {

struct CudaRates {
  double fma = 69;               // multiply-adds on CUDA cores
  double tensor16 = 1120;        // on tensor cores, of 16-bit elements
  double tf32 = 220;             // the same of TF32
  double outputs = 2.83;         // an epilogue's: bias, activation, rounding, store
  double latency_cycles = 1570;  // from asking DRAM to having it, under load
  double launch_us = 3.16;
  double group16 = 945;  // tensor16 by 9.0's own instructions
  double group32 = 517;  // tf32 by them
};

}  // namespace dwsconv

#endif  // DWSCONV_PLAN_CUDA_RATES_H_
