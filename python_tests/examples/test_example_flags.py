"""What the example programs say of wrong flags: a message that names the flag, and no traceback."""

import re
from collections import Counter

import pytest
from conftest import ROOT
from example_support import LIMITS, check_refused

WRONG = {
    "benchmarks/arithmetic_intensity.py": [
        (["--shape=1,2,3"], "flag --shape=1,2,3: must be 4 positive integers N,H,W,C"),
        (["--model=MobileNetV9", "--nomeasure", "--noplot"], "--model=MobileNetV9 cannot be read"),
        (["--peak_gflops=0"], "flag --peak_gflops=0: "),
        (["layer"], "no plain arguments"),
    ],
    "benchmarks/benchmark_channels.py": [
        (["--channels=8,x"], "flag --channels=8,x: must be positive integers"),
        (["--variants=fastest"], "flag --variants=fastest: must be different ones of dense"),
        (["--size=0"], "flag --size=0: "),
        (["--max_gflop=0", *LIMITS, "--channels=8"], "leaves nothing to time"),
        (["8"], "no plain arguments"),
    ],
    "benchmarks/benchmark_ladder.py": [
        (["--shape=1,2,3"], "flag --shape=1,2,3: must be 4 positive integers N,H,W,C"),
        (["--shape=1,0,3,4"], "flag --shape=1,0,3,4: must be 4 positive integers N,H,W,C"),
        (["--variants=naive,fastest"], "flag --variants=naive,fastest: must be different ones"),
        (["--sizes=0"], "flag --sizes=0: must be positive integers"),
        (["--repeat=0"], "flag --repeat=0: "),
        (["--kernel_size=0"], "flag --kernel_size=0: "),
        (["something"], "no plain arguments"),
    ],
    "benchmarks/benchmark_layer.py": [
        (["--shape=1,2,3", "--filters=4"], "flag --shape=1,2,3: must be 4 positive integers N,H,W,C"),
        (["--shape=1,0,3,4", "--filters=4"], "flag --shape=1,0,3,4: must be 4 positive integers N,H,W,C"),
        (["--shape=1,2,3,4"], "--filters must be one for each --shape or one for all; given 0 for 1"),
        (["--shape=1,4,4,4", "--filters=4", "--kernel_size=5", "--padding=valid"], "do not fit together"),
        (["--dtype=int8"], "flag --dtype=int8: "),
        (["--variants=separable,fastest"], "flag --variants=separable,fastest: must be different ones of dense"),
        (["--modes=graph,graph"], "flag --modes=graph,graph: must be different ones"),
        (["--variants=native", "--train"], "leaves nothing to time"),
        (["--repeat=0"], "flag --repeat=0: "),
        (["output.png"], "no plain arguments"),
    ],
    "benchmarks/benchmark_models.py": [
        (["--model=MobileNetV9"], "--model=MobileNetV9 cannot be built"),
        (["--batch_sizes=1,0"], "flag --batch_sizes=1,0: must be positive integers"),
        (["--variants=ours,fastest"], "flag --variants=ours,fastest: must be different ones of stock"),
        (["--size=8"], "flag --size=8: "),
        (
            ["--size=32", "--variants=stock,ours", "--batch_sizes=1", "--tolerance=0"],
            "computes something else at batch 1",
        ),
        (["MobileNet"], "no plain arguments"),
    ],
    "benchmarks/benchmark_training_step.py": [
        (["--size=8"], "flag --size=8: "),
        (["--way=none"], "flag --way=none: "),
        (["MobileNet"], "no plain arguments"),
        (["--model=MobileNetV9"], "--model must be of "),
    ],
    "benchmarks/communication.py": [
        (["--shape=1,2,3,4"], "--filters must be one for each --shape or one for all; given 0 for 1"),
        (["--sweep_shape=1,2,3"], "flag --sweep_shape=1,2,3: must be 4 positive integers"),
        (["--l2_bytes=-1"], "flag --l2_bytes=-1: "),
        (["layer"], "no plain arguments"),
    ],
    "benchmarks/report.py": [
        (["--form=huge"], "flag --form=huge: "),
        (["--parts=ladder,everything"], "flag --parts=ladder,everything: must be different ones of intensity"),
        (["--timeout=0"], "flag --timeout=0: "),
        (["ladder"], "no plain arguments"),
    ],
    "serving/score_images.py": [
        ([], "--network must name a file, but is ''"),
        (["--network=Makefile"], "--images must name a folder, but is ''"),
        (["--network=Makefile", "--images=docs"], "--network=Makefile cannot be loaded"),
        (["--part=0"], "flag --part=0: "),
        (["photos"], "no plain arguments"),
    ],
    "training/measure_training_memory.py": [
        (["--shape=1,2,3"], "flag --shape=1,2,3: must be 4 positive integers N,H,W,C"),
        (["--layers=0"], "flag --layers=0: "),
        (["--activation=softmax"], "flag --activation=softmax: "),
        (["4"], "no plain arguments"),
    ],
    "training/train_cifar.py": [
        (["--variants=sparse"], "flag --variants=sparse: must be different ones of dense, stock, ours"),
        (["--batch_size=0"], "flag --batch_size=0: "),
        (["--dtype_policy=int8"], "flag --dtype_policy=int8: "),
        (["--data_dir=/nowhere"], "no CIFAR-10 in /nowhere"),
        (["cifar"], "no plain arguments"),
    ],
    "training/train_digits.py": [
        (["--epochs=0"], "flag --epochs=0: "),
        (["--batch_size=5000"], "flag --batch_size=5000: "),
        (["--variants=theirs"], "flag --variants=theirs: must be different ones of stock, ours"),
        (["--target=97"], "flag --target=97: "),
        (["7"], "no plain arguments"),
        (["--output=/dev/null/x"], "--output=/dev/null/x"),
    ],
    "training/train_distributed.py": [
        (["--workers=0"], "flag --workers=0: "),
        (["--batch_size=31"], "--batch_size must be a multiple of the replicas (2); given 31"),
        (["--replicas=2"], "--replicas is for a single worker; given 2 with 2 workers"),
        (["--crash=1,2"], "--crash must be worker,epoch,step"),
        (["--crash=2,1,1"], "worker 0..1, epoch 1..6, step 1..44"),
        (["--learning_rate=0"], "flag --learning_rate=0: "),
        (["now"], "no plain arguments"),
    ],
}


@pytest.mark.parametrize(
    ("program", "flags", "message"), [(program, *case) for program, cases in WRONG.items() for case in cases]
)
def test_wrong_flags_are_refused(tmp_path, program, flags, message):
    check_refused(program, tmp_path, flags, message)


def test_a_flag_of_two_programs_is_defined_once():
    """What several programs take is in common/options.py, so that it has one name and one meaning."""
    files = list((ROOT / "examples").rglob("*.py"))
    assert len(files) > 30
    defined = re.compile(r"""flags\.DEFINE\w*\(\s*["'](\w+)["']""")
    names = Counter(name for file in files for name in defined.findall(file.read_text(encoding="utf-8")))
    assert names["max_gflop"] == 1
    assert [name for name, count in names.items() if count > 1] == []
