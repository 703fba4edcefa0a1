"""Every class of `keras.layers` beside a separable convolution: `convert`, `training=True` and `to_builtin` keep it."""

from __future__ import annotations

import inspect

import keras
import numpy as np
import pytest
import tensorflow as tf
from convert_support import randomise

import tf_dwsconv

pytestmark = pytest.mark.usefixtures("op_library")

L = keras.layers

IMAGE, ROW, SEQUENCE, VOLUME, TOKENS, WORDS = (8, 8, 3), (6,), (8, 6), (4, 4, 4, 2), (5,), (1,)
VIDEO = (3, 6, 6, 2)

# Arguments of classes that cannot be made without; a function where a new one is needed each time.
ARGUMENTS = {
    "Activation": ["elu"],
    "AlphaDropout": [0.5],
    "Bidirectional": lambda: [L.LSTM(3, return_sequences=True)],
    "CategoryEncoding": [5],
    "CenterCrop": [4, 4],
    "Dense": [4],
    "Discretization": [[0.0, 0.5]],
    "Dot": [1],
    "Dropout": [0.5],
    "EinsumDense": ["abc,cd->abd", (8, 4)],
    "Embedding": [9, 4],
    "GaussianDropout": [0.5],
    "GaussianNoise": [0.5],
    "GroupNormalization": [3],
    "GroupQueryAttention": [4, 2, 1],
    "HashedCrossing": [7],
    "Hashing": [7],
    "IntegerLookup": lambda: [None, 1, None, -1, [1, 2, 3]],
    "Lambda": [lambda x: x * 2],
    "MultiHeadAttention": [2, 4],
    "Permute": [(2, 1)],
    "Pipeline": lambda: [[L.Rescaling(2.0), L.RandomFlip(seed=1)]],
    "RNN": lambda: [L.GRUCell(3)],
    "RandomBrightness": [0.1],
    "RandomPosterization": [4],
    "RandomCrop": [4, 4],
    "RandomTranslation": [0.1, 0.1],
    "RandomZoom": [0.1],
    "RepeatVector": [3],
    "Rescaling": [0.5],
    "Reshape": [(6, 8)],
    "Resizing": [4, 4],
    "ReversibleEmbedding": [9, 4],
    "SpatialDropout1D": [0.5],
    "SpatialDropout2D": [0.5],
    "SpatialDropout3D": [0.5],
    "SpectralNormalization": lambda: [L.Conv2D(4, 3)],
    "StackedRNNCells": lambda: [[L.LSTMCell(4)]],
    "StringLookup": lambda: [None, 1, None, "[UNK]", ["cat", "dog"]],
    "TextVectorization": lambda: {"vocabulary": ["cat", "dog"], "output_sequence_length": 4},
    "TimeDistributed": lambda: [L.SeparableConv2D(4, 3, activation="tanh")],
}
BY_PARAMETER = {
    "output_size": 2, "pool_size": 2, "filters": 4, "kernel_size": 3, "units": 4, "factor": 0.2, "num_bins": 5,
    "max_number": 3,
}  # fmt: skip

SHAPES = {
    **dict.fromkeys(["Dense", "RepeatVector", "Identity", "Masking", "GroupNormalization"], ROW),
    **dict.fromkeys(
        ["Bidirectional", "GRU", "LSTM", "RNN", "SimpleRNN", "EinsumDense", "Reshape", "Permute"], SEQUENCE
    ),
    **dict.fromkeys(["AdditiveAttention", "Attention", "MultiHeadAttention", "GroupQueryAttention", "Dot"], SEQUENCE),
    **dict.fromkeys(["MelSpectrogram"], (2100,)),
    "STFTSpectrogram": (600, 1),
    **dict.fromkeys(["Embedding", "ReversibleEmbedding"], TOKENS),
    **dict.fromkeys(["Hashing", "StringLookup", "TextVectorization", "IntegerLookup", "HashedCrossing"], WORDS),
    **dict.fromkeys(["CategoryEncoding", "Discretization"], TOKENS),
    **dict.fromkeys(["GRUCell", "LSTMCell", "SimpleRNNCell", "StackedRNNCells"], ROW),
    "ConvLSTM1D": (3, 6, 2),
    "ConvLSTM2D": VIDEO,
    "ConvLSTM3D": (3, 4, 4, 4, 2),
    "TimeDistributed": VIDEO,
}
DTYPES = {
    **dict.fromkeys(["Embedding", "ReversibleEmbedding", "CategoryEncoding", "IntegerLookup"], "int32"),
    **dict.fromkeys(["Hashing", "StringLookup", "TextVectorization", "HashedCrossing"], "string"),
}
OF_TWO = {
    "Add", "Average", "Concatenate", "Dot", "Maximum", "Minimum", "Multiply", "Subtract", "AdditiveAttention",
    "Attention", "HashedCrossing",
}  # fmt: skip

# Each with why it is not a layer of a Functional model here.
LEFT_OUT = {
    "Layer": "abstract",
    "Wrapper": "abstract",
    "InputLayer": "every model has one",
    "JaxLayer": "needs JAX",
    "FlaxLayer": "needs JAX",
    "TorchModuleWrapper": "needs PyTorch",
    "TFSMLayer": "is tested with what the report says of it",
    "MaxNumBoundingBoxes": "takes boxes and not tensors",
    "Equalization": "answers an Input with the Input itself, which Keras takes for a cycle",
    "CutMix": "takes labels beside its images",
    "MixUp": "takes labels beside its images",
}


# What the rewrites may make anew in their own way.
REMADE = {
    "separable", "SeparableConv1D", "SeparableConv2D", "DepthwiseConv1D", "DepthwiseConv2D", "Conv2D", "Conv1D",
    "TimeDistributed", "BatchNormalization", "Normalization", "Rescaling", "Dense",
}  # fmt: skip


def classes():
    found = {}
    for name in dir(L):
        kind = getattr(L, name)
        if inspect.isclass(kind) and issubclass(kind, keras.Layer) and kind not in found.values():
            found[name] = kind
    return found


def made(name, kind):
    arguments = ARGUMENTS.get(name)
    if arguments is not None:
        arguments = arguments() if callable(arguments) else arguments
        if isinstance(arguments, dict):
            return kind(**arguments, name=name)
        return kind(*arguments, name=name)
    needed = [p for p in inspect.signature(kind.__init__).parameters.values() if p.default is p.empty]
    return kind(**{p.name: BY_PARAMETER[p.name] for p in needed if p.name in BY_PARAMETER}, name=name)


def shape_of(name):
    if name in SHAPES:
        return SHAPES[name]
    return {"1D": SEQUENCE, "3D": VOLUME}.get(next((end for end in ("1D", "3D") if end in name), ""), IMAGE)


def called(name, kind, inputs):
    """The layer on an input of its own kind, which `inputs` collects."""
    key = (shape_of(name), DTYPES.get(name, "float32"))
    if key not in inputs:
        inputs[key] = keras.Input(key[0], dtype=key[1], name=f"in{len(inputs)}")
    x, layer = inputs[key], made(name, kind)
    if name.endswith(("Cell", "Cells")):
        states = [L.Dense(4)(x)] * (1 if name in ("GRUCell", "SimpleRNNCell") else 2)
        return layer(x, [states] if name == "StackedRNNCells" else states)
    if name in ("MultiHeadAttention", "GroupQueryAttention"):
        return layer(x, x)
    return layer([x, x] if name in OF_TWO else x)


def model_of(kinds):
    inputs = {}
    outputs = {name: called(name, kind, inputs) for name, kind in kinds.items()}
    picture = inputs.setdefault((IMAGE, "float32"), keras.Input(IMAGE, name="picture"))
    outputs["separable"] = L.SeparableConv2D(4, 3, name="separable")(picture)
    return randomise(keras.Model(list(inputs.values()), outputs))


def values_for(model):
    rng = np.random.default_rng(0)
    values = []
    for t in model.inputs:
        shape = (2, *t.shape[1:])
        if t.dtype == "string":
            values.append(tf.constant(rng.choice(["cat", "dog", "cow"], shape)))
        elif "int" in t.dtype:
            values.append(tf.constant(rng.integers(0, 5, shape), t.dtype))
        else:
            values.append(tf.constant(rng.uniform(-1, 1, shape), t.dtype))
    return values


def test_the_table_is_complete():
    assert not LEFT_OUT.keys() - classes().keys()
    assert len(classes()) - len(LEFT_OUT) > 100


REWRITES = {
    "convert": tf_dwsconv.convert,
    "training": lambda model: tf_dwsconv.convert(model, training=True),
    "to_builtin": lambda model: tf_dwsconv.to_builtin(tf_dwsconv.convert(model, training=True)),
}


@pytest.fixture(scope="module")
def model():
    model = model_of({name: kind for name, kind in classes().items() if name not in LEFT_OUT})
    model.get_layer("Normalization").finalize_state()  # of the random numbers that it has now
    return model


@pytest.mark.parametrize("rewrite", REWRITES)
def test_layers_answer_as_before_and_keep_their_weights(model, rewrite):
    new = REWRITES[rewrite](model)
    values = values_for(model)
    ours, stock = new(values, training=False), model(values, training=False)
    outputs = stock.keys()
    assert ours.keys() == stock.keys()
    for name in stock:
        keras.tree.assert_same_structure(ours[name], stock[name])
        for a, b in zip(keras.tree.flatten(ours[name]), keras.tree.flatten(stock[name])):
            a, b = (tf.convert_to_tensor(t).numpy() for t in (a, b))
            assert a.dtype == b.dtype and a.shape == b.shape, name
            if a.dtype.kind == "f":
                np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * np.abs(b).max(), err_msg=name)
            else:
                np.testing.assert_array_equal(a, b, err_msg=name)
    for layer in model.layers:
        if layer.name in REMADE or layer.name not in outputs:
            continue
        copy = new.get_layer(layer.name)
        assert type(copy) is type(layer) and copy is not layer
        assert [v.name for v in copy.variables] == [v.name for v in layer.variables]
        for a, b in zip(copy.variables, layer.variables):
            np.testing.assert_array_equal(a.numpy(), b.numpy(), err_msg=b.path)
            assert a is not b and a.trainable == b.trainable


@pytest.mark.parametrize("kind", [L.LSTM, L.GRU, L.SimpleRNN, L.ConvLSTM1D], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("rewrite", REWRITES)
def test_recurrent_layers_keep_functions_of_their_own(kind, rewrite):
    slope = 0.3
    options = {"activation": lambda x: keras.ops.leaky_relu(x, slope)}
    if kind is not L.SimpleRNN:
        options["recurrent_activation"] = lambda x: keras.ops.clip(x, 0.1, 0.9)
    x, picture = keras.Input((3, 6, 2) if kind is L.ConvLSTM1D else (5, 6)), keras.Input(IMAGE)
    recurrent = kind(4, 3, **options) if kind is L.ConvLSTM1D else kind(4, **options)
    model = randomise(keras.Model([x, picture], [recurrent(x), L.SeparableConv2D(4, 3)(picture)]))
    new = REWRITES[rewrite](model)
    values = values_for(model)
    np.testing.assert_allclose(new(values)[0], model(values)[0], rtol=1e-6)
    assert new.get_layer(recurrent.name).cell.activation is options["activation"]
