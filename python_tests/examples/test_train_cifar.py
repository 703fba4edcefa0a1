"""The CIFAR-10 benchmark: both archives in every form, damage that is named, and the table."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import tarfile

import numpy as np
import pytest
from conftest import run_example
from learning import cifar
from PIL import Image

PROGRAM = "training/train_cifar.py"
COUNT = 4  # pictures of a batch file
FORMS = ("python", "binary")


def pictures():
    """Pictures and labels of the six files, as `cifar.load` is to return them."""
    random = np.random.default_rng(0)
    x = random.integers(0, 256, (6, COUNT, 32, 32, 3), np.uint8)
    y = random.integers(0, 10, (6, COUNT)).astype(np.int32)
    return x, y


def files_of(form):
    """The files of an archive by name, written out independently of the reader."""
    result = {}
    for i, (x, y) in enumerate(zip(*pictures())):
        planes = np.stack([x[..., channel].reshape(COUNT, 1024) for channel in range(3)], axis=1).reshape(COUNT, 3072)
        name = f"data_batch_{i + 1}" if i < 5 else "test_batch"
        if form == "binary":
            result[f"cifar-10-batches-bin/{name}.bin"] = b"".join(
                bytes([label]) + row.tobytes() for label, row in zip(y, planes)
            )
        else:
            batch = {b"batch_label": b"one", b"labels": [int(label) for label in y], b"data": planes}
            result[f"cifar-10-batches-py/{name}"] = pickle.dumps(batch, protocol=2)
    extra = "cifar-10-batches-bin/batches.meta.txt" if form == "binary" else "cifar-10-batches-py/readme.html"
    return {extra: b"airplane\n", **result}


def pack(files, path):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def unpack(files, folder):
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)


def check_all(data):
    x, y = pictures()
    np.testing.assert_array_equal(data.train_x, x[:5].reshape(-1, 32, 32, 3))
    np.testing.assert_array_equal(data.train_y, y[:5].reshape(-1))
    np.testing.assert_array_equal(data.test_x, x[5])
    np.testing.assert_array_equal(data.test_y, y[5])
    assert data.train_x.dtype == np.uint8 and data.train_y.dtype == np.int32


@pytest.mark.parametrize("form", FORMS)
def test_every_way_to_name_an_archive(tmp_path, form):
    archive = pack(files_of(form), tmp_path / f"cifar-10-{form}.tar.gz")
    check_all(cifar.load(str(archive)))
    check_all(cifar.load(str(tmp_path)))
    renamed = archive.rename(tmp_path / "data.tgz")
    check_all(cifar.load(str(renamed)))
    unpack(files_of(form), tmp_path)
    renamed.unlink()
    check_all(cifar.load(str(tmp_path)))
    check_all(cifar.load(str(tmp_path / f"cifar-10-batches-{form[:2] if form == 'python' else 'bin'}")))


def test_pickles_of_python_2_and_of_today(tmp_path):
    """Python 2 wrote strings where Python 3 has bytes, and NumPy 1 has its functions in another module."""
    files = files_of("python")
    for name in list(files):
        if "batch_" in name or name.endswith("test_batch"):
            old = files[name].replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
            batch = {key.decode(): value for key, value in pickle.loads(files[name], encoding="bytes").items()}
            files[name] = old if name.endswith(("1", "2")) else pickle.dumps(batch, protocol=5)
    check_all(cifar.load(str(pack(files, tmp_path / "a.tar.gz"))))


def test_a_pickle_runs_nothing(tmp_path):
    class Evil:
        def __reduce__(self):
            return (exec, (f"open({str(tmp_path / 'ran')!r}, 'w')",))

    files = files_of("python")
    files["cifar-10-batches-py/data_batch_2"] = pickle.dumps({b"data": Evil(), b"labels": []}, protocol=2)
    with pytest.raises(cifar.CifarError, match=r"data_batch_2.*asks for .*exec"):
        cifar.load(str(pack(files, tmp_path / "a.tar.gz")))
    assert not (tmp_path / "ran").exists()


def damaged(form):
    """(what was done, files, what the error has to say)"""
    files = files_of(form)
    name = next(name for name in files if "data_batch_3" in name)

    def put(content):
        return {**files, name: content}

    yield "missing", {key: value for key, value in files.items() if key != name}, "data_batch_3"
    yield "truncated", put(files[name][:-7]), r"data_batch_3.* truncated"
    yield "empty", put(b""), r"data_batch_3.* truncated"
    if form == "binary":
        yield "label", put(b"\x0b" + files[name][1:]), r"data_batch_3.*labels must be 0\.\.9; given \d\.\.11"
    else:
        good = pickle.loads(files[name], encoding="bytes")
        wrong = [
            ("list", [1], "holds no data and no labels"),
            ("key", {b"data": good[b"data"]}, "holds no labels"),
            ("shape", {**good, b"data": good[b"data"][:, 1:]}, r"must be uint8 \[n, 3072\].*\[4, 3071\]"),
            ("dtype", {**good, b"data": good[b"data"].astype(np.float32)}, "float32"),
            ("count", {**good, b"labels": [1]}, r"\[1\] labels"),
            ("label", {**good, b"labels": [0, 1, 2, 10]}, r"labels must be 0\.\.9; given 0\.\.10"),
            ("text", {**good, b"labels": ["cat"] * 4}, "labels are not integers"),
        ]
        for what, batch, message in wrong:
            yield what, put(pickle.dumps(batch, protocol=2)), rf"data_batch_3.*{message}"


@pytest.mark.parametrize(
    ("form", "files", "message"),
    [pytest.param(form, *rest, id=f"{form}-{what}") for form in FORMS for what, *rest in damaged(form)],
)
def test_damage_is_named(tmp_path, form, files, message):
    with pytest.raises(cifar.CifarError, match=message):
        cifar.load(str(pack(files, tmp_path / f"cifar-10-{form}.tar.gz")))
    unpack(files, tmp_path)
    (tmp_path / f"cifar-10-{form}.tar.gz").unlink()
    with pytest.raises(cifar.CifarError, match=message):
        cifar.load(str(tmp_path))


def test_damaged_archives(tmp_path):
    whole = pack(files_of("binary"), tmp_path / "whole.tar.gz").read_bytes()
    path = tmp_path / "cifar-10-binary.tar.gz"
    for content in (whole[: len(whole) // 2], whole[:5], b"", b"no archive", whole[:500] + b"?" * 40 + whole[540:]):
        path.write_bytes(content)
        with pytest.raises(cifar.CifarError, match="truncated or damaged"):
            cifar.load(str(path))
    pack({"other/readme.txt": b"hello"}, path)
    with pytest.raises(cifar.CifarError, match=r"is not CIFAR-10: it holds other/readme\.txt"):
        cifar.load(str(tmp_path))
    path.write_bytes(gzip.compress(b"x" * 2000))
    with pytest.raises(cifar.CifarError, match="truncated or damaged"):
        cifar.load(str(path))


def test_synthetic_pictures_are_the_seeds(tmp_path):
    a, b, c = (cifar.synthetic(50, seed) for seed in (1, 1, 2))
    assert a.train_x.shape == (50, 32, 32, 3) and len(a.test_y) == 5
    np.testing.assert_array_equal(a.train_x, b.train_x)
    assert (a.train_x != c.train_x).any()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The three networks on a tiny archive."""
    folder = tmp_path_factory.mktemp("cifar")
    pack(files_of("python"), folder / "cifar-10-python.tar.gz")
    flags = [f"--data_dir={folder}", "--batch_size=5", "--epochs=2", "--steps_per_epoch=0", "--learning_rate=1e-4"]
    done = run_example(PROGRAM, *flags, f"--output={folder / 'out'}")
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads((folder / "out" / "run.json").read_text()), folder / "out"


def test_the_study_networks(run):
    """529 and 136 thousand parameters, as the study has them."""
    _, record, _ = run
    summary = record["summary"]
    assert [round(summary[name]["parameters"] / 1000) for name in ("dense", "stock", "ours")] == [529, 136, 136]
    assert record["settings"]["tf_dwsconv_runs"] == "fused kernels" and record["settings"]["pictures"] == "CIFAR-10"
    for name in ("dense", "stock", "ours"):
        assert summary[name]["images_per_second"] > 0
        assert 0 <= summary[name]["test_accuracy"] <= 1
    assert summary["ours"]["loss"] == pytest.approx(summary["stock"]["loss"], rel=1e-2)


def test_the_table_is_the_study_s(run):
    printed, record, folder = run
    lines = printed.splitlines()
    assert any(line.split() == ["study:", "V100", "128", "11123", "9094", "0.82x"] for line in lines)
    own = next(line for line in lines if line.startswith("this CPU") and "tf_dwsconv" in line).split()
    assert float(own[-2]) == pytest.approx(record["summary"]["ours"]["images_per_second"], abs=0.51)
    assert len((folder / "epochs.csv").read_text().splitlines()) == 1 + 2 * 3
    with Image.open(folder / "images.png") as image:
        assert image.width > 600 and len(image.getcolors(1 << 24)) > 10


def test_mixed_precision(tmp_path):
    policy = "mixed_float16"
    flags = [
        "--variants=ours",
        "--batch_size=8",
        "--epochs=3",
        "--steps_per_epoch=4",
        f"--dtype_policy={policy}",
        "--noplot",
    ]
    done = run_example(PROGRAM, *flags, "--pictures=32", f"--output={tmp_path}")
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "run.json").read_text())
    losses = [float(line.split(",")[3]) for line in (tmp_path / "epochs.csv").read_text().splitlines()[1:]]
    assert record["settings"]["dtype_policy"] == policy and list(record["summary"]) == ["ours"]
    assert np.isfinite(losses).all() and losses[-1] < 0.7 * losses[0]
    assert "StockOpsWarning" not in done.stderr
