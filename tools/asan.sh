#!/bin/bash
# tools/asan.sh [PYTEST ARGUMENTS]: the tests of what the libraries compute (layers, blocks, gradients, networks; ops,
# NumPy module, C interface), with the libraries built by AddressSanitizer, in build/asan/; without arguments the C++
# unit tests, too. TensorFlow is the stock wheel, so the sanitizer's runtime is preloaded.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD

tools/other_build.sh asan
package=build/asan/tf_dwsconv
for library in "$package"/*.so; do
  if [[ $(nm -D "$library") != *__asan_init* ]]; then
    echo "error: $library was built without AddressSanitizer" >&2
    exit 1
  fi
done

tests=("$@")
if [[ ${#tests[@]} == 0 ]]; then
  tools/build.sh test --config=asan
  tests=(op/test_op.py op/test_bad_input.py op/test_forward_ways.py op/test_activation_kernels.py op/test_small_channels.py)
  tests+=(op/test_filter_cache.py block/test_block_kernel.py block/test_block_ways.py block/test_block_gates.py)
  tests+=(block/test_dense_windows.py block/test_small_tiles.py native/test_row_edges.py)
  tests+=(network/test_network_groups.py network/test_network_products.py)
  tests+=(native/test_native.py native/test_native_errors.py native/test_native_module.py native/test_own_threads.py)
  tests+=(native/test_reference_variant.py network/test_network_native.py network/test_network_changed.py)
  tests+=(network/test_network_op.py network/test_network_c.py network/test_network_scales.py network/test_network_pools.py)
  tests+=(network/test_network_means.py op/test_activation_sizes.py native/test_channel_pairs.py)
  tests+=(network/test_network_parts.py network/test_network_softmax.py network/test_network_turns.py)
  tests+=(gradient/test_backward.py gradient/test_batch_norm.py layer/test_training_parts.py)
  tests=("${tests[@]/#/python_tests/}")
fi

# Reports go to files: a test that runs a call in a process of its own, or expects an error, would swallow them.
# TensorFlow and Python keep memory until the process ends, so leaks are not looked for. Tests ask for more memory than
# there is: malloc answers null then, as without the sanitizer, and a line of warning is all that it writes.
rm -f build/asan/report*
# From the package's own folder: a program that a test gives to `python -c` finds what is in the current one first.
for i in "${!tests[@]}"; do
  if [[ -e ${tests[i]%%::*} ]]; then tests[i]=$(realpath "${tests[i]%%::*}")${tests[i]#"${tests[i]%%::*}"}; fi
done
# libstdc++ too: Python is not linked with it, and the sanitizer looks for the function that throws when it starts.
runtime=$(realpath "$(g++ -print-file-name=libasan.so)"):$(realpath "$(g++ -print-file-name=libstdc++.so.6)")
status=0
cd build/asan
env LD_PRELOAD="$runtime" PYTHONPATH="$root/build/asan" \
  ASAN_OPTIONS="detect_leaks=0:allocator_may_return_null=1:exitcode=99:log_path=$root/build/asan/report" \
  "$root/.venv/bin/pytest" -p no:cacheprovider "${tests[@]}" || status=$?

for report in report*; do
  if [[ -e $report ]] && grep -v 'WARNING: AddressSanitizer failed to allocate' "$report" >&2; then status=99; fi
done
if [[ $status == 0 ]]; then echo ">> AddressSanitizer has nothing to report"; fi
exit "$status"
