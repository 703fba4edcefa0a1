"""Of the planner."""

from mutant_faults._fault import Fault

_PLANNER = ("test_planner.py",)

FAULTS = (
    Fault(
        "small problems on all threads",
        "cc/plan/planner.cc",
        "flops / kFlopsPerThread",
        "static_cast<double>(machine.threads)",
        _PLANNER,
        at="std::clamp<double>(flops / kFlopsPerThread, 1.0, machine.threads)",
    ),
    Fault(
        "blocks larger than their scratch",
        "cc/plan/planner.cc",
        "(plan.scratch_bytes > most || plan.scratch_bytes + rows_bytes > room)",
        "(plan.scratch_bytes < 0 || rows_bytes < 0)",
        _PLANNER,
    ),
    Fault(
        "output channels never shared",
        "cc/plan/planner.cc",
        "std::min<int64_t>(panels, threads)",
        "std::min<int64_t>(1, threads)",
        _PLANNER,
    ),
    Fault(
        "never around the caches",
        "cc/plan/planner.cc",
        "kShareOfL3 * static_cast<double>(machine.l3_bytes)",
        "1e300",
        _PLANNER,
    ),
    Fault(
        "tuned plans are for any height",
        "cc/plan/plan_key.h",
        "p.H",
        "int64_t{0}",
        ("test_tune_plans.py", "test_tune_file.py"),
        at="          p.H,\n",
    ),
)
