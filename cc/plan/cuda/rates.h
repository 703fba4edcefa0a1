// What a multiprocessor does in a cycle, with what is usually lost already taken off. Estimates: none of them has been
// measured on a card yet. cuda/bench/sweep.py measures, and writes this file anew.
#ifndef DWSCONV_PLAN_CUDA_RATES_H_
#define DWSCONV_PLAN_CUDA_RATES_H_

namespace dwsconv {

struct CudaRates {
  double fma = 76.8;             // multiply-adds on CUDA cores
  double tensor16 = 819.2;       // on tensor cores, of 16-bit elements
  double tf32 = 256;             // the same of TF32
  double outputs = 24;           // an epilogue's: bias, activation, rounding, store
  double latency_cycles = 1400;  // from asking DRAM to having it, under load
  double launch_us = 3;
  double group16 = 1000;         // tensor16 by 9.0's own instructions
};

}  // namespace dwsconv

#endif  // DWSCONV_PLAN_CUDA_RATES_H_
