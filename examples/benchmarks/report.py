"""Runs the benchmark programs and writes one page, report.html, with what they found beside what the sources reported.

  python examples/benchmarks/report.py                       # the short form: below 10 minutes on 2 cores
  python examples/benchmarks/report.py --form=long           # larger sweeps and more calls
  python examples/benchmarks/report.py --parts=layer,ladder  # some parts
  python examples/benchmarks/report.py --form=tiny --output=/tmp/x  # a minute: everything runs, nothing is measured

The sources are a study of GPUs (the post "Depth-wise Separable Convolutions") and the project report "Communication-
Avoiding Depthwise-Separable Convolutions" (Lien, Banka and Jogani, CS 267, 2022).

The page holds tables and plots itself and needs no other file. Each part has a folder beside it with its CSV files. A
part that fails is shown as such on the page, and the program ends with 1.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Optional

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for `common`

from absl import app, flags
from common import options, record
from measuring import here, machine, page, plots, results, sources

EXAMPLES = Path(__file__).resolve().parents[1]
FORMS = ("short", "long", "tiny")
_FORM = flags.DEFINE_enum("form", "short", FORMS, "How much is measured.")
_OUTPUT = options.output("report", "report.html and the folders of the parts")
_TIMEOUT = flags.DEFINE_float("timeout", 7200.0, "Seconds after which a part is ended and counts as failed.", 1.0)


@dataclasses.dataclass(frozen=True)
class Part:
    """One run of a program.

    Attributes:
        title: on the page.
        why: which measurement of which source this is.
        program: in examples/.
        flags: for all forms.
        short, long, tiny: the flags of each form.
    """

    title: str
    why: str
    program: str
    flags: str = ""
    short: str = ""
    long: str = ""
    tiny: str = ""


QUICK = "--peak_gflops=100 --memory_gbs=10 --repeat=1 --seconds=0.01"
PARTS = {
    "intensity": Part(
        "Arithmetic intensity and roofline",
        "The study's tables of parameters, FLOPs, memory accesses and arithmetic intensity, its estimate of the memory "
        "throughput, and its readers' correction: an unfused layer moves HW(3C + K) elements.",
        "benchmarks/arithmetic_intensity.py",
        short="--seconds=1.5",
        long="--model=MobileNet --batch_size=8 --seconds=3",
        tiny=f"--shape=1,8,8,4 --filters=4 {QUICK}",
    ),
    "layer": Part(
        "The study's layer",
        "The study's microbenchmark: 224x224, 128 to 128 channels, 3x3, batch 1 and 16, dense beside "
        "depthwise-separable, in a tf.function.",
        "benchmarks/benchmark_layer.py",
        short="--suite=study --seconds=2",
        long="--suite=study --modes=eager,graph,xla --seconds=20",
        tiny=f"--shape=1,8,8,4 --filters=4 {QUICK}",
    ),
    "modes": Part(
        "Op by op, tf.function, XLA",
        "One layer of MobileNetV1 called in three ways. The study ran its layer in a tf.function and trained with XLA.",
        "benchmarks/benchmark_layer.py",
        flags="--variants=dense,pair,separable,ours,native --modes=eager,graph,xla",
        short="--shape=1,56,56,128 --filters=128 --seconds=0.7",
        long="--suite=mobilenet --seconds=3",
        tiny=f"--shape=1,8,8,4 --filters=4 {QUICK}",
    ),
    "mobilenet": Part(
        "Layers of MobileNetV1",
        "The layers of the network that the report put its layer into, one at a time, batch 1.",
        "benchmarks/benchmark_layer.py",
        flags="--suite=mobilenet --variants=separable,ours,native,torch,litert,onnxruntime,openvino",
        short="--seconds=0.4",
        long="--seconds=2",
        tiny=QUICK,
    ),
    "report_layer": Part(
        "The report's layer",
        "Section 6.3: 128x512x512x3 through PyTorch and through the report's extension. The report does not name the "
        "output channels: 3 here, and 64 with a smaller batch.",
        "benchmarks/benchmark_layer.py",
        flags="--variants=separable,ours,native,torch",
        short="--suite=report --seconds=2 --repeat=8",
        long="--suite=report --seconds=30",
        tiny=f"--shape=2,16,16,3 --filters=3 {QUICK}",
    ),
    "report_layer_default": Part(
        "The report's layer, memory as PyTorch leaves it",
        "The same, nearer to what the report timed: PyTorch's own order of the axes beside channels_last, and freed "
        "memory given back to the system after each call, as the C library does unasked.",
        "benchmarks/benchmark_layer.py",
        flags="--variants=ours,native,torch,torch_nchw --nokeep_memory",
        short="--shape=128,512,512,3 --filters=3 --seconds=2 --repeat=6",
        long="--suite=report --seconds=30",
        tiny=f"--shape=2,16,16,3 --filters=3 {QUICK}",
    ),
    "convnext": Part(
        "Layers of ConvNeXt",
        "Section 6.3: with ConvNeXt's channels the report's layer was 2.8 times as slow as PyTorch's. 7x7 and as many "
        "channels as its stages have, to four times as many.",
        "benchmarks/benchmark_layer.py",
        flags="--variants=separable,ours,native,torch,litert,onnxruntime,openvino",
        short="--suite=convnext --seconds=1",
        long="--suite=convnext --seconds=5",
        tiny=f"--shape=1,8,8,4 --filters=16 --kernel_size=7 {QUICK}",
    ),
    "ladder": Part(
        "The ladder of optimisations",
        "Sections 3, 4 and 6.1: loop order, unrolling, blocking, vectors, threads, and beyond the report fusion, over "
        "the input's size and over channels.",
        "benchmarks/benchmark_ladder.py",
        short="--sizes=16,32,64,128,256,512 --channels=4,16,64,256 --seconds=0.6",
        long="--batch_size=128 --channels=4,8,16,32,64,128,256,512 --seconds=10",
        tiny="--sizes=8,16 --batch_size=1 --channels=4,8 --size=8 --repeat=1",
    ),
    "channels": Part(
        "The study's channel sweep",
        "From 8 to 2048 channels. The study plotted convolutions a second of a V100 and a TPUv2.",
        "benchmarks/benchmark_channels.py",
        short="--seconds=0.8 --max_gflop=300",
        long="--size=224 --seconds=20 --max_gflop=4000",
        tiny=f"--channels=8,16 --size=8 {QUICK}",
    ),
    "models": Part(
        "MobileNetV1 over batch sizes",
        "Figure 5: seconds a batch of MobileNetV1's inference, and the report's 2x at batch 128.",
        "benchmarks/benchmark_models.py",
        flags="--model=MobileNet",
        short="--batch_sizes=1,8,32,128 --seconds=1.2 --repeat=6",
        long="--batch_sizes=1,2,4,8,16,32,64,128 --seconds=30",
        tiny="--batch_sizes=1 --size=32 --repeat=1 --seconds=0.01",
    ),
    "convnext_blocks": Part(
        "ConvNeXt blocks",
        "Section 6.3's ConvNeXt, as a network: the blocks of its stages, 7x7 depthwise, layer norm, two dense layers.",
        "benchmarks/benchmark_models.py",
        flags="--model=ConvNeXtBlocks",
        short="--batch_sizes=1,8 --seconds=1.5 --repeat=8",
        long="--batch_sizes=1,8,32 --seconds=20",
        tiny="--batch_sizes=1 --size=32 --repeat=1 --seconds=0.01",
    ),
    "communication": Part(
        "Communication: bounds, tilings, traffic, sweep",
        "Section 4.5: the linear programs' tilings and the parameter sweep; the study's profile of loads and stores.",
        "benchmarks/communication.py",
        short="--seconds=0.4 --shape=1,112,112,32 --filters=64 --shape=8,14,14,512 --filters=512 --shape=1,512,512,3 "
        "--filters=64",
        long="--seconds=3",
        tiny="--shape=1,8,8,4 --filters=4 --sweep_shape=1,8,8,4 --sweep_filters=4 --nostudy --repeat=1 --seconds=0.01",
    ),
    "training": Part(
        "Training on CIFAR-10's shape",
        "The study's training benchmark: four convolutions of 128 channels, dense and separable; batch 32, as on its "
        "CPU.",
        "training/train_cifar.py",
        flags="--batch_size=32",
        short="--epochs=2 --steps_per_epoch=6 --pictures=256",
        long="--epochs=5 --steps_per_epoch=40 --pictures=2560",
        tiny="--epochs=1 --steps_per_epoch=1 --pictures=32 --batch_size=4",
    ),
}
_PARTS = options.words("parts", list(PARTS), PARTS, "What to run:")

# What the sources measured that has no counterpart here.
WITHOUT = (
    {
        "what": "SM and memory utilization of the layer (V100)",
        "reported": "100% and 31 to 54%",
        "why": "what a GPU's driver samples; the share of the limit and GB/s in the layers' tables stand for it",
    },
    {
        "what": "utilization of tensor cores, ALU, FP32, FP16, XU pipelines (V100, Nsight Compute)",
        "reported": "76.1% tensor for dense, 0.0% for DepSep",
        "why": "a GPU's pipelines; counters of this CPU are often closed to virtual machines",
    },
    {
        "what": "the layer and the networks on V100 and TPUv2",
        "reported": "beside each figure above",
        "why": "this package has no GPU or TPU kernels in these measurements",
    },
    {
        "what": "CUDA kernel over serial code; over PyTorch",
        "reported": f"{sources.REPORT_CUDA_GAIN[0]} to {sources.REPORT_CUDA_GAIN[1]}x; {sources.REPORT_GPU_GAIN}x",
        "why": "the same",
    },
    {
        "what": "filters kept in vector registers",
        "reported": f"{sources.REPORT_REGISTER_GAIN:g}x",
        "why": "all vector steps of the ladder do it; it is no step of its own",
    },
    {
        "what": "training accuracy (normal, DepSep)",
        "reported": "{}%, {}%".format(*sources.STUDY_TRAINING_ACCURACY),
        "why": "train_cifar.py reports it with CIFAR-10 itself, --data_dir; the report trains on random pictures",
    },
)


def run_part(name: str, part: Part, form: str, folder: Path) -> tuple[str, Optional[str], float]:
    """Runs a part; returns its command, what went wrong (None: nothing), and the seconds it took."""
    words = [*part.flags.split(), *getattr(part, form).split(), f"--output={folder}"]
    command = ["examples/" + part.program, *words[:-1]]
    start = time.perf_counter()
    try:
        done = subprocess.run(
            [sys.executable, str(EXAMPLES / part.program), *words],
            capture_output=True,
            text=True,
            timeout=_TIMEOUT.value,
        )
        wrong = None if done.returncode == 0 else (done.stdout[-1500:] + done.stderr[-2500:]).strip()
        (folder / "output.txt").write_text(done.stdout, encoding="utf-8")
    except subprocess.TimeoutExpired:
        wrong = f"ended after {_TIMEOUT.value:g} seconds (--timeout)"
    except OSError as error:
        wrong = f"{type(error).__name__}: {error}"
    return " ".join(command), wrong, time.perf_counter() - start


def training_results(folder: Path) -> dict[str, Any]:
    """What `train_cifar.py` wrote, in the form of the other programs' results."""
    run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    summary, compared = run["summary"], []
    rates = {name: summary[name]["images_per_second"] for name in ("dense", "stock", "ours") if name in summary}
    for chip, batch, dense, separable in run["study"]:
        source = f"{sources.STUDY}: {chip}, batch {batch}"
        for name, reported in (("dense", dense), ("stock", separable), ("ours", separable)):
            if name in rates and chip.startswith("E5"):
                what = f"images/s, training: {name}"
                compared.append({"what": what, "reported": reported, "ours": round(rates[name], 1), "unit": "images/s"})
                compared[-1] |= {"source": source, "remark": ""}
        for name in ("stock", "ours"):
            if {"dense", name} <= set(rates):
                what = f"images/s of the separable over the dense network, training: {name}"
                gain, reported = round(rates[name] / rates["dense"], 2), round(separable / dense, 2)
                compared.append({"what": what, "reported": reported, "ours": gain, "unit": "x"})
                compared[-1] |= {"source": source, "remark": ""}
    for name, reported in (("dense", 0), ("stock", 1)):
        if name in rates:
            parameters = f"{summary[name]['parameters'] / 1e3:.0f}k"
            compared.append({"what": f"parameters: {name}", "reported": sources.STUDY_TRAINING_PARAMETERS[reported]})
            compared[-1] |= {"ours": parameters, "unit": "", "source": f"{sources.STUDY}: theory", "remark": ""}
    rows = [{"network": name, **summary[name]} for name in rates]
    columns = {"network": "network", "parameters": "parameters", "images_per_second": "images/s"}
    figures = [{"file": "images.png", "caption": "Training: images a second, and what separable layers gain."}]
    return {
        "title": "Training",
        "settings": run["settings"],
        "tables": [{"name": "networks", "title": "Networks", "columns": columns, "rows": rows}],
        "figures": [each for each in figures if (folder / each["file"]).exists()],
        "comparisons": compared,
        "notes": [],
    }


def part_section(name: str, part: Part, command: str, seconds: float, folder: Path) -> tuple[str, dict[str, Any]]:
    """The chapter of a part that ran, and its record."""
    if part.program == "training/train_cifar.py":
        found = training_results(folder)
    else:
        found = json.loads((folder / results.FILE).read_text(encoding="utf-8"))
    parts = [
        f"<p>{page.text(part.why)}</p>",
        f'<p class="note"><code>python {page.text(command)}</code> &nbsp; {seconds:.0f} s</p>',
        *(f'<p class="note">{page.text(note)}</p>' for note in found["notes"]),
        page.comparisons(found["comparisons"]),
        *(page.figure(folder / each["file"], each["caption"]) for each in found["figures"]),
        *(page.titled_table(each["title"], each["columns"], each["rows"]) for each in found["tables"]),
    ]
    return page.section(name, part.title, parts), found


def failed_section(name: str, part: Part, command: str, wrong: str) -> str:
    """The chapter of a part that failed."""
    content = f"<p><code>python {page.text(command)}</code> failed:</p><pre>{page.text(wrong)}</pre>"
    content = f'<div class="failed">{content}</div>'
    return page.section(name, part.title, [f"<p>{page.text(part.why)}</p>", content])


def main(argv: list[str]) -> int:
    options.no_arguments(argv)
    names = _PARTS.value
    form = _FORM.value
    plots.require("help")
    output = record.make_folder("output", _OUTPUT.value)
    start = time.perf_counter()
    chapters, failures, compared = [], [], []
    all_found: dict[str, dict[str, Any]] = {}
    settings: dict[str, Any] = {}
    for number, name in enumerate(names, 1):
        part, folder = PARTS[name], output / name
        folder.mkdir(exist_ok=True)
        print(f"[{number} of {len(names)}] {part.title} ...", end="", flush=True)
        command, wrong, seconds = run_part(name, part, form, folder)
        print(f" {seconds:.0f} s{'' if wrong is None else ', FAILED'}", flush=True)
        if wrong is not None:
            failures.append(name)
            print(wrong, file=sys.stderr, flush=True)
            chapters.append(failed_section(name, part, command, wrong))
            continue
        chapter, found = part_section(name, part, command, seconds, folder)
        chapters.append(chapter)
        all_found[name] = found
        settings = {**found["settings"], **settings}
        compared += [{"part": name, **each} for each in found["comparisons"]]
    seconds = time.perf_counter() - start
    own = ("command", "limit", "seed", "repeat", "seconds")
    settings = {
        "command": " ".join(["python", *sys.argv]),
        "form": form,
        "took": f"{seconds / 60:.1f} minutes",
        **{key: value for key, value in {**settings, **machine.describe()}.items() if key not in own},
        "commit": results.commit(),
    }
    kept = (
        "intra_op_threads",
        "freed_memory",
        "l2_bytes",
        "pictures",
        "batch_size",
        "epochs",
        "steps_per_epoch",
        "learning_rate",
        "dtype_policy",
    )
    shown = {key: value for key, value in settings.items() if key not in kept}
    unset = [key for key in results.VARIABLES if shown.get(key) == "not set"]
    shown = {key: value for key, value in shown.items() if key not in unset}
    shown["environment variables not set"] = ", ".join(unset)
    reported = {
        name: (PARTS[name].title, [each for each in compared if each["part"] == name and each["reported"] is not None])
        for name in names
    }
    summary = here.summary(all_found, {name: PARTS[name].title for name in names}, is_trial=form == "tiny")
    parts = [
        summary,
        here.words(),
        page.section("run", "The run and the machine", [page.facts(shown)]),
        page.section(
            "sources",
            "What the sources reported, and what is found here",
            [
                "<p>Only figures that a source has; remarks, and what else was measured, are in the chapters. The "
                "hardware is another one: ratios compare, times and rates do not.</p>",
                page.summary({name: group for name, group in reported.items() if group[1]}),
                "<h3>Without a counterpart here</h3>",
                page.table({"what": "what", "reported": "reported", "why": "why"}, list(WITHOUT)),
            ],
        ),
        *chapters,
    ]
    contents = {"here": "Here and now"} if summary else {}
    contents |= {
        "words": "Words on this page",
        "run": "The run and the machine",
        "sources": "What the sources reported",
    }
    contents |= {name: PARTS[name].title for name in names}
    text = page.page("tf_dwsconv, measured on this machine", parts, contents)
    (output / "report.html").write_text(text, encoding="utf-8")
    record.write_json(output / "report.json", {"settings": settings, "failed": failures, "comparisons": compared})
    if compared:
        record.write_csv(output / "comparisons.csv", compared)
    print(f"saved {output / 'report.html'} after {seconds / 60:.1f} minutes")
    if failures:
        print(f"report: failed parts: {', '.join(failures)}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    app.run(main)
