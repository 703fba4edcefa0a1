#!/bin/bash
# tools/avx512_model.sh [PYTEST ARGUMENTS]: the kernels' tests with AVX-512 as a model that runs on AVX2
# (cc/cpu/kernels/avx512_model.h), for machines that lack AVX-512. The libraries lie in build/avx512_model/.
set -euo pipefail
cd "$(dirname "$0")/.."

tools/other_build.sh avx512_model
tests=("$@")
if [[ ${#tests[@]} == 0 ]]; then
  tests=(native/test_native.py op/test_op.py op/test_small_channels.py op/test_activation_kernels.py)
  tests+=(gradient/test_backward.py block/test_block_kernel.py block/test_block_gates.py op/test_activation_sizes.py)
  tests+=(gradient/test_batch_norm.py network/test_network_softmax.py network/test_network_groups.py
    network/test_network_products.py)
  tests+=(block/test_dense_windows.py block/test_small_tiles.py)
  tests=("${tests[@]/#/python_tests/}" -k avx512)
fi
PYTHONPATH="$PWD/build/avx512_model" .venv/bin/pytest -p no:cacheprovider "${tests[@]}"
