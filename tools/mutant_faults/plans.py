"""Of the planner."""

from mutant_faults._fault import Fault

FAULTS = (
    Fault(
        "small problems on all threads",
        "cc/plan/planner.cc",
        "work / machine.flops_per_thread",
        "static_cast<double>(machine.threads)",
        ("plan/test_planner.py::test_small_problems_take_one_thread",),
        at="std::clamp<double>(work / machine.flops_per_thread, 1.0, machine.threads)",
    ),
    Fault(
        "blocks larger than their scratch",
        "cc/plan/planner.cc",
        "(plan.scratch_bytes > most || plan.scratch_bytes + rows_bytes > room)",
        "(plan.scratch_bytes < 0 || rows_bytes < 0)",
        ("plan/test_planner.py::test_any_problem_gets_a_plan_that_fits",),
    ),
    Fault(
        "output channels never shared",
        "cc/plan/planner.cc",
        "std::min<int64_t>(panels, threads)",
        "std::min<int64_t>(1, threads)",
        ("op/test_forward_ways.py::test_few_pixels_by_many_channels",),
    ),
    Fault(
        "never around the caches",
        "cc/plan/plan.h",
        "stream_share * static_cast<double>(l3_bytes)",
        "1e300",
        ("plan/test_planner.py::test_output_that_no_cache_holds_is_written_around_the_caches",),
    ),
    Fault(
        "16 bits through the caches",
        "cc/cpu/run/call.h",
        "(typed_ || kernels_.streams_halves)",
        "typed_",
        ("native/test_traffic.py::test_streaming_stores_go_around_the_caches",),
        isa="avx512",
    ),
    Fault(
        "tuned plans are for any height",
        "cc/plan/plan_key.h",
        "p.H",
        "int64_t{0}",
        ("plan/test_tune_plans.py", "plan/test_tune_file.py"),
        at="          p.H,\n",
    ),
    Fault(
        "one thread has a strip more than another",
        "cc/plan/expand_plan.cc",
        "RoundUp(CeilDiv(p.Ho, plan->rows), CeilDiv(plan->threads, p.N))",
        "CeilDiv(p.Ho, plan->rows)",
        ("plan/test_planner.py::test_threads_behind_an_expansion_get_equal_shares",),
    ),
    Fault(
        "rows twice where channels would be shared",
        "cc/plan/expand_plan.cc",
        "return by_channels < by_strips;",
        "return by_channels < 0 * by_strips;",
        ("plan/test_planner.py::test_threads_behind_an_expansion_get_equal_shares",),
    ),
    Fault(
        "no blocks of as many pixels for each thread",
        "cc/plan/planner.cc",
        "each <= kMostEqualBlocks",
        "each <= 0",
        ("plan/test_planner.py::test_few_rows_are_cut_anywhere",),
    ),
    Fault(
        "tiles of few pixels cost no more than others",
        "cc/plan/planner.cc",
        "machine.costs.least_pixels",
        "0.0",
        ("plan/test_planner.py::test_tiles_of_few_pixels_are_worth_avoiding",),
    ),
)
