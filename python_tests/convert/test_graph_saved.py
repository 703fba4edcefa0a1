"""`convert_saved_model` on SavedModels: signatures, state, functions that stay, and models of TensorFlow 1."""

import numpy as np
import pytest
import tensorflow as tf
from graph_support import Weights, batch_norm, conv, depthwise

import tf_dwsconv

pytestmark = pytest.mark.usefixtures("op_library")


def fused(rows):
    return [row.pattern for row in rows if row.fused]


def said(rows, pattern):
    return [row.reason for row in rows if row.pattern == pattern]


def signatures(path):
    model = tf.saved_model.load(str(path))
    signatures.kept = model  # its variables live as long as it does
    return model.signatures


def numbers(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype("float32")


def x_of(*shape):
    return tf.constant(numbers(*shape))


def separable(x, w, channels=8):
    return tf.nn.relu(conv(depthwise(x, w(3, 3, x.shape[-1], 1)), w(1, 1, x.shape[-1], channels)))


class Counting(tf.Module):
    """Two signatures that share a filter, one a count that the other writes, and a table with its file."""

    def __init__(self, words):
        super().__init__()
        w = Weights()
        self.filter = tf.Variable(w(3, 3, 6, 1))
        self.project = tf.Variable(w(1, 1, 6, 8))
        self.scale = tf.Variable(2.0)
        self.count = tf.Variable(0, dtype=tf.int64)
        self.words = tf.saved_model.Asset(str(words))
        file = tf.lookup.TextFileInitializer(
            self.words, tf.string, tf.lookup.TextFileIndex.WHOLE_LINE, tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER
        )
        self.table = tf.lookup.StaticHashTable(file, -1)

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 6], name="image"), tf.TensorSpec([], tf.string)])
    def classify(self, image, word):
        self.count.assign_add(1)
        y = self.features(image)
        if tf.reduce_sum(y) > 0:
            y = y * self.scale
        else:
            y = -y
        return {"scores/mean": tf.reduce_mean(y, [1, 2]), "row": self.table.lookup(word), "count": self.count + 0}

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 6], name="image")])
    def features(self, image):
        return tf.nn.relu(conv(tf.nn.relu6(depthwise(image, self.filter)), self.project))

    @tf.function(input_signature=[tf.TensorSpec([])])
    def set_scale(self, scale):
        self.scale.assign(scale)
        return {"scale": self.scale + 0.0}


def test_state_is_kept_and_shared(tmp_path):
    """Written variables, a table, its file and a branch go on to work; what nobody writes is frozen."""
    (tmp_path / "words.txt").write_text("zero\none\ntwo\n", encoding="utf-8")
    module = Counting(tmp_path / "words.txt")
    names = {"classify": module.classify, "features": module.features, "set_scale": module.set_scale}
    tf.saved_model.save(module, str(tmp_path / "saved"), signatures=names)
    rows = tf_dwsconv.convert_saved_model(tmp_path / "saved", tmp_path / "out")
    assert fused(rows) == 2 * ["depthwise + 1x1"]
    assert "cannot be a constant" in said(rows, "state")[0]
    (tmp_path / "words.txt").unlink()
    x = x_of(2, 8, 9, 6)
    old, new = signatures(tmp_path / "saved"), None
    old_kept = signatures.kept
    new = signatures(tmp_path / "out")
    assert old_kept is not signatures.kept and set(old) == set(new)
    for key in old:
        assert {k: (s.shape, s.dtype) for k, s in old[key].structured_outputs.items()} == {
            k: (s.shape, s.dtype) for k, s in new[key].structured_outputs.items()
        }
        specs = [sorted(f.structured_input_signature[1].items()) for f in (old[key], new[key])]
        assert specs[0] == specs[1]
    for step in range(3):
        for functions in (old, new):
            functions["set_scale"](scale=tf.constant(step + 0.5))
        results = [f["classify"](image=x, word=tf.constant("one")) for f in (old, new)]
        assert [int(r["count"]) for r in results] == [step + 1] * 2 and int(results[1]["row"]) == 1
        np.testing.assert_allclose(results[1]["scores/mean"], results[0]["scores/mean"], atol=1e-5)
    kinds = {op.type for op in new["features"].graph.get_operations()}
    graph = new["classify"].graph.as_graph_def()
    kinds |= {node.op for function in graph.library.function for node in function.node_def}
    assert "TfDwsconv>DepthwiseSepConv2D" in kinds and "DepthwiseConv2dNative" not in kinds


def test_only_what_is_asked_for(tmp_path):
    """One signature of several; the others are told of."""
    (tmp_path / "words.txt").write_text("zero\n", encoding="utf-8")
    module = Counting(tmp_path / "words.txt")
    names = {"classify": module.classify, "features": module.features}
    tf.saved_model.save(module, str(tmp_path / "saved"), signatures=names)
    rows = tf_dwsconv.convert_saved_model(tmp_path / "saved", tmp_path / "out", signatures=["features"])
    assert any("'classify', which was not asked for" in words for words in said(rows, "left out"))
    assert any("the function 'set_scale'" in words for words in said(rows, "left out"))
    assert list(signatures(tmp_path / "out")) == ["features"] and not said(rows, "state")
    assert not list((tmp_path / "out" / "assets").iterdir())
    with pytest.raises(ValueError, match="`signatures` must be of 'classify', 'features'; given 'other'"):
        tf_dwsconv.convert_saved_model(tmp_path / "saved", tmp_path / "o", signatures=["other"])
    with pytest.raises(TypeError, match="`signatures` must be a list"):
        tf_dwsconv.convert_saved_model(tmp_path / "saved", tmp_path / "o", signatures="features")
    assert not (tmp_path / "o").exists()


def test_what_stays_a_function_is_told_of(tmp_path):
    """Convolutions in a loop's body and in what XLA compiles: kept, working, and each in the report."""
    w = Weights()
    kernel = w(3, 3, 6, 1)

    @tf.function(jit_compile=True)
    def compiled(x):
        return depthwise(x, kernel, name="in_xla")

    @tf.function(input_signature=[tf.TensorSpec([2, 8, 8, 6])])
    def run(x):
        x = tf.while_loop(lambda i, y: i < 3, lambda i, y: (i + 1, depthwise(y, kernel, name="in_loop")), (0, x))[1]
        return {"y": separable(compiled(x), w)}

    tf.saved_model.save(tf.Module(), str(tmp_path / "saved"), signatures=run)
    rows = tf_dwsconv.convert_saved_model(tmp_path / "saved", tmp_path / "out")
    assert fused(rows) == ["depthwise + 1x1"]
    reasons = {row.layers[0]: row.reason for row in rows if row.pattern == "DepthwiseConv2dNative"}
    assert len(reasons) == 2 and all("is kept" in words for words in reasons.values())
    x = x_of(2, 8, 8, 6)
    old, new = (signatures(tmp_path / name)["serving_default"](x=x)["y"].numpy() for name in ("saved", "out"))
    np.testing.assert_allclose(new, old, atol=1e-5 * np.abs(old).max())


def slim(path, resource):
    """A SavedModel of TensorFlow 1, as slim exported networks: variables, two signatures, a dilated convolution."""
    tf1 = tf.compat.v1
    with tf.Graph().as_default(), tf1.Session() as session:
        w = Weights()
        tf1.get_variable_scope().set_use_resource(resource)
        x = tf1.placeholder(tf.float32, [None, 12, 12, 3], name="input")
        with tf1.variable_scope("MobilenetV1"):
            y = tf.nn.relu6(batch_norm(conv(x, tf1.get_variable("w0", initializer=w(3, 3, 3, 8)), 2), w, 8))
            kernel = tf1.get_variable("depthwise_weights", initializer=w(3, 3, 8, 1))
            y = tf.nn.depthwise_conv2d(y, kernel, [1, 1, 1, 1], "SAME", dilations=[2, 2])
            y = tf.nn.relu6(batch_norm(y, w, 8, "FusedBatchNorm"))
            y = conv(y, tf1.get_variable("w1", initializer=w(1, 1, 8, 16)))
            features = tf.nn.relu6(batch_norm(y, w, 16, "written out"))
        logits = tf.reduce_mean(features, [1, 2], name="logits")
        session.run(tf1.global_variables_initializer())
        expected = session.run([logits, features], {x: numbers(2, 12, 12, 3)})
        build = tf1.saved_model.build_signature_def
        info = tf1.saved_model.build_tensor_info
        maps = {
            "serving_default": build({"images": info(x)}, {"logits": info(logits)}),
            "features": build({"images": info(x)}, {"map": info(features)}),
        }
        builder = tf1.saved_model.Builder(str(path))
        builder.add_meta_graph_and_variables(session, ["serve"], signature_def_map=maps)
        builder.add_meta_graph(["serve", "gpu"], signature_def_map=maps)
        builder.save()
    return expected


@pytest.mark.parametrize("resource", [False, True], ids=["reference variables", "resource variables"])
def test_tensorflow_1(resource, tmp_path):
    """Both kinds of variables become constants; tags choose the graph; both signatures answer as the session did."""
    expected = slim(tmp_path / "saved", resource)
    with pytest.raises(ValueError, match=r"cannot be loaded: .*tags"):
        tf_dwsconv.convert_saved_model(tmp_path / "saved", tmp_path / "out")
    rows = tf_dwsconv.convert_saved_model(tmp_path / "saved", tmp_path / "out", tags=["serve"])
    assert fused(rows) == 2 * ["convolution", "depthwise + 1x1"] and not said(rows, "state")
    new = signatures(tmp_path / "out")
    x = x_of(2, 12, 12, 3)
    np.testing.assert_allclose(new["serving_default"](images=x)["logits"], expected[0], atol=1e-5)
    np.testing.assert_allclose(new["features"](images=x)["map"], expected[1], atol=1e-5)
    assert not [op for op in new["features"].graph.get_operations() if "Var" in op.type]


def test_branches_of_tensorflow_1(tmp_path):
    """tf.compat.v1.cond by Switch and Merge: what is in a branch is computed only there."""
    tf1 = tf.compat.v1
    tf1.disable_control_flow_v2()
    try:
        with tf.Graph().as_default() as graph:
            w = Weights()
            x, flag = tf1.placeholder(tf.float32, [2, 8, 8, 6], "x"), tf1.placeholder(tf.bool, [], "flag")
            y = tf1.cond(flag, lambda: separable(x, w), lambda: separable(-x, w))
            y = tf1.while_loop(lambda i, z: i < 2, lambda i, z: (i + 1, depthwise(z, w(3, 3, 8, 1))), (0, y))[1]
            tf.identity(separable(y, w), name="y")
            graph_def = graph.as_graph_def()
        with tf1.Session(graph=graph) as session:
            inputs = [{x: numbers(2, 8, 8, 6), flag: value} for value in (False, True)]
            expected = [session.run("y:0", given) for given in inputs]
    finally:
        tf1.enable_control_flow_v2()
    assert "Switch" in {node.op for node in graph_def.node} and "Enter" in {node.op for node in graph_def.node}
    (tmp_path / "frozen.pb").write_bytes(graph_def.SerializeToString())
    rows = tf_dwsconv.convert_saved_model(tmp_path / "frozen.pb", tmp_path / "out", inputs=["x", "flag"], outputs=["y"])
    assert "depthwise + 1x1" in fused(rows)
    assert "it is inside a loop" in said(rows, "DepthwiseConv2dNative")
    new = signatures(tmp_path / "out")["serving_default"]
    for value, old in zip((False, True), expected):
        y = new(x=x_of(2, 8, 8, 6), flag=tf.constant(value))["y"]
        np.testing.assert_allclose(y, old, atol=1e-5 * np.abs(old).max())


def test_random_numbers_and_strings_stay(tmp_path):
    """Stateful nodes run as often as before; strings go through."""
    w = Weights()

    @tf.function(input_signature=[tf.TensorSpec([None, 8, 8, 6]), tf.TensorSpec([None], tf.string)])
    def run(x, words):
        noise = tf.random.uniform(tf.shape(x), seed=1)
        return {"y": separable(x + 0.0 * noise, w), "words": tf.strings.upper(words), "noise": noise}

    tf.saved_model.save(tf.Module(), str(tmp_path / "saved"), signatures=run)
    rows = tf_dwsconv.convert_saved_model(tmp_path / "saved", tmp_path / "out")
    assert fused(rows) == ["depthwise + 1x1"]
    old, new = (
        signatures(tmp_path / name)["serving_default"](x=x_of(2, 8, 8, 6), words=tf.constant(["a"]))
        for name in ("saved", "out")
    )
    np.testing.assert_allclose(new["y"], old["y"], atol=1e-5)
    assert new["words"].numpy().tolist() == [b"A"]
    again = signatures(tmp_path / "out")["serving_default"]
    first, second = (again(x=x_of(1, 8, 8, 6), words=tf.constant(["a"]))["noise"].numpy() for _ in range(2))
    assert np.any(first != second)
