"""The serving example: a server and a client in processes of their own, what they answer, and what they refuse."""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
import sys
import urllib.error
import urllib.request

import keras
import numpy as np
import pytest
from conftest import ROOT, python_environment, run_example
from example_support import check_refused
from in_threads import in_threads

import tf_dwsconv

L = keras.layers
pytestmark = pytest.mark.usefixtures("op_library")


def small_model():
    keras.utils.set_random_seed(3)
    x = picture = keras.Input((None, None, 3), name="picture")
    x = L.SeparableConv2D(8, 3, strides=2, padding="same", activation="relu", bias_initializer="random_normal")(x)
    y = L.DepthwiseConv2D(3, padding="same", activation="relu6")(x)
    x = L.Add()([x, L.Conv2D(8, 1)(y)])
    return keras.Model(picture, L.Dense(5)(L.GlobalAveragePooling2D()(x)))


@pytest.fixture(scope="module")
def model():
    return small_model()


def started(*flags):
    """A server on a free port, and the URL of its model."""
    program = ROOT / "examples" / "serving" / "serve.py"
    server = subprocess.Popen(
        [sys.executable, str(program), "--port=0", "--threads=1", *flags],
        env=python_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    line = server.stdout.readline()
    if not line.startswith("http://"):
        server.kill()
        pytest.fail(line + server.communicate()[1][-3000:])
    return server, line.split()


@pytest.fixture(scope="module")
def url(model, tmp_path_factory):
    """Of the model in a server that converted it; in the end the server is told to stop, and does."""
    folder = tmp_path_factory.mktemp("serving")
    model.save(folder / "model.keras")
    server, (url, _, ops, *_) = started(f"--model={folder / 'model.keras'}", f"--output={folder}", "--name=small")
    assert int(ops) >= 2, "the server does not run converted blocks"
    yield url
    server.send_signal(signal.SIGTERM)
    _, said = server.communicate(timeout=60)
    assert server.returncode == 0, said
    assert "Traceback" not in said


def ask(url, body=None):
    """(code, content) of an answer."""
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data), timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def pictures(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def close(found, model, x):
    expected = model(x).numpy()
    assert np.shape(found) == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_rows(url, model):
    x = pictures(3, 9, 12, 3)
    code, answer = ask(f"{url}:predict", {"instances": x.tolist()})
    assert code == 200 and list(answer) == ["predictions"]
    close(answer["predictions"], model, x)
    named = {"instances": [{"picture": one} for one in x.tolist()], "signature_name": "serving_default"}
    assert ask(f"{url}:predict", named) == (200, answer)


def test_columns(url, model):
    x = pictures(2, 8, 7, 3)
    code, answer = ask(f"{url}:predict", {"inputs": x.tolist()})
    assert code == 200 and list(answer) == ["outputs"]
    close(answer["outputs"], model, x)
    assert ask(f"{url}:predict", {"inputs": {"picture": x.tolist()}}) == (200, answer)


def test_many_clients_at_a_time(url, model):
    def work(seed):
        for step in range(5):
            x = pictures(1 + seed % 3, 5 + seed, 6 + step, 3, seed=seed)
            code, answer = ask(f"{url}:predict", {"instances": x.tolist()})
            assert code == 200
            close(answer["predictions"], model, x)

    in_threads(work, range(6))


def test_one_connection_takes_many_requests(url, model):
    address = url.split("/")[2]
    connection = http.client.HTTPConnection(address, timeout=60)
    path = url.split(address)[1]
    for body, code in (({"instances": "x"}, 400), ({"inputs": pictures(1, 4, 4, 3).tolist()}, 200), ({}, 400)):
        connection.request("POST", f"{path}:predict", json.dumps(body))
        answer = connection.getresponse()
        assert answer.status == code
        answer.read()
    connection.close()


def test_status_and_metadata(url):
    code, answer = ask(url)
    assert code == 200 and answer["model_version_status"][0]["state"] == "AVAILABLE"
    code, answer = ask(f"{url}/metadata")
    signature = answer["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert code == 200 and answer["model_spec"] == {"name": "small", "signature_name": "", "version": "1"}
    (given,) = signature["inputs"].values()
    assert given["dtype"] == "DT_FLOAT"
    assert [dim["size"] for dim in given["tensor_shape"]["dim"]] == ["-1", "-1", "-1", "3"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", "no JSON"),
        (b"\xff\xfe", "no JSON"),
        ([1, 2], 'either "instances" or "inputs"'),
        ({}, 'either "instances" or "inputs"'),
        ({"instances": [], "inputs": []}, 'either "instances" or "inputs"'),
        ({"instances": []}, "one example or more"),
        ({"instances": [[[[1, 2]]]]}, "must have the shape (None, None, None, 3); given (1, 1, 1, 2)"),
        ({"instances": [[[[1, 2, 3]]], [[[1, 2]]]]}, "must be numbers of one shape, float32"),
        ({"inputs": [[[["a", "b", "c"]]]]}, "must be numbers of one shape, float32"),
        ({"inputs": {"image": 1}}, "the inputs must be picture; given image"),
        ({"inputs": 1, "signature_name": "train"}, '"signature_name" must be one of serv'),
    ],
)
def test_wrong_requests_are_refused_and_the_server_goes_on(url, body, message):
    code, answer = ask(f"{url}:predict", body)
    assert code == 400 and message in answer["error"]
    assert ask(url)[0] == 200


def test_wrong_paths(url):
    for path, body in ((url + "er", None), (f"{url}/versions/2", None), (f"{url}:classify", {}), (url, {})):
        code, answer = ask(path, body)
        assert code == 404 and "/v1/models/small" in answer["error"]


def test_a_request_without_a_length(url):
    connection = http.client.HTTPConnection(url.split("/")[2], timeout=60)
    connection.putrequest("POST", "/v1/models/small:predict")
    connection.endheaders()
    assert connection.getresponse().status == 411
    connection.close()
    assert ask(url)[0] == 200


def test_the_client(url):
    server = url.split("/v1/")[0]
    done = run_example(
        "serving/query.py", f"--url={server}", "--name=small", "--size=9", "--batch_size=2", "--threads=2", "--repeat=2"
    )
    assert done.returncode == 0, done.stderr
    assert "2 of [9, 9, 3] -> [2, 5]" in done.stdout and "4 requests" in done.stdout
    done = run_example("serving/query.py", f"--url={server}", "--name=other")
    assert done.returncode == 2
    assert "there is no /v1/models/other/metadata" in done.stderr and "Traceback" not in done.stderr


def test_a_saved_model_of_several_inputs_and_outputs(tmp_path):
    a, b = keras.Input((6, 6, 4), name="a"), keras.Input((4,), name="b")
    z = tf_dwsconv.DepthwiseSepConv2D(4, 3, padding="same")(a)
    model = keras.Model([a, b], {"sum": L.Add()([L.GlobalAveragePooling2D()(z), b]), "z": z})
    model.export(str(tmp_path / "saved"), verbose=False)
    x, y = pictures(2, 6, 6, 4), pictures(2, 4, seed=1)
    expected = model([x, y])
    server, (url, *_) = started(f"--saved_model={tmp_path / 'saved'}")
    try:
        _, metadata = ask(f"{url}/metadata")
        names = list(metadata["metadata"]["signature_def"]["signature_def"]["serving_default"]["inputs"])
        (first,), (second,) = ([name for name in names if name.startswith(letter)] for letter in "ab")
        rows = [{first: one.tolist(), second: other.tolist()} for one, other in zip(x, y)]
        code, answer = ask(f"{url}:predict", {"instances": rows})
        assert code == 200 and len(answer["predictions"]) == 2
        for name, tensor in expected.items():
            found = np.array([row[name] for row in answer["predictions"]], np.float32)
            np.testing.assert_allclose(found, tensor, rtol=0, atol=1e-5)
        code, answer = ask(f"{url}:predict", {"inputs": {first: x.tolist(), second: y.tolist()}})
        assert code == 200 and set(answer["outputs"]) == {"sum", "z"}
        code, answer = ask(f"{url}:predict", {"instances": x.tolist()})
        assert code == 400 and "there are several inputs: name them" in answer["error"]
    finally:
        server.kill()
        server.communicate()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model=MobileNetV9"], "--model=MobileNetV9 cannot be served"),
        (["--saved_model=/nowhere"], "/nowhere cannot be served"),
        (["--port=99999"], "flag --port=99999: "),
        (["--name=a/b"], "flag --name=a/b: "),
    ],
)
def test_what_cannot_be_served(tmp_path, flags, message):
    check_refused("serving/serve.py", tmp_path, flags, message)
