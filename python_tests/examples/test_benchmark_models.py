"""The benchmark of whole networks: its table, the peers that are not there, the PyTorch translation, wrong flags."""

import numpy as np
import pytest
from example_support import rows_of, run_quickly

PROGRAM = "benchmarks/benchmark_models.py"
OPTIONAL = ("litert", "onnxruntime", "openvino", "openvino_tf", "torch")


@pytest.mark.parametrize("model", ["MobileNet", "ConvNeXtBlocks"])
def test_table_and_plot(tmp_path, model):
    """Every peer that is installed answers as stock Keras does; the others are named."""
    flags = [f"--model={model}", "--batch_sizes=2,1", "--size=32", "--repeat=1", "--seconds=0.01"]
    found = run_quickly(PROGRAM, tmp_path, *flags)
    rows = rows_of(found, "models")
    assert {row["batch"] for row in rows} == {1, 2}
    timed = {row["peer"] for row in rows}
    assert timed >= {"stock", "frozen", "ours", "ours_frozen"}
    for name in OPTIONAL:
        assert (name in timed) != any(
            note.startswith((f"{name} (", f"{name}: the runtime, or")) for note in found["notes"]
        )
    for row in rows:
        assert float(row["difference"]) < 1e-4
        assert row["images_per_s"] == pytest.approx(1e3 * row["batch"] / row["ms"])
    reported = {each["what"]: each["reported"] for each in found["comparisons"]}
    assert reported[f"{model}, batch 2: Keras, tf.function over ours"] == (2 if model == "MobileNet" else 0.36)
    assert found["settings"]["tf_dwsconv_runs"] == "fused kernels"


def test_the_translation_to_pytorch():
    """Each kind of layer that it knows, against Keras; and one that it does not know is named."""
    pytest.importorskip("torch")
    import keras
    import torch
    from keras import layers
    from measuring import torch_network

    inputs = keras.Input((17, 15, 3))
    x = layers.Rescaling(0.5, offset=0.1)(inputs)
    x = layers.Conv2D(8, 3, strides=2, padding="same", activation="silu")(x)
    x = layers.BatchNormalization()(layers.ZeroPadding2D(((0, 1), (1, 0)))(x))
    x = layers.ReLU(6.0)(layers.DepthwiseConv2D(3, strides=2, depth_multiplier=2)(x))
    y = layers.SeparableConv2D(16, 5, padding="same", activation="gelu")(x)
    x = layers.Add()([x, layers.Dropout(0.5)(y)])
    x = layers.Dense(6, activation="tanh")(layers.LayerNormalization()(x))
    x = layers.Concatenate()([x, layers.Activation("sigmoid")(x)])
    x = layers.Reshape((-1,))(x)
    model = keras.Model(inputs, layers.Dense(4)(x))
    for variable in model.variables:
        variable.assign(keras.random.uniform(variable.shape, 0.1, 0.6, seed=1))
    pictures = np.random.default_rng(0).standard_normal((2, 17, 15, 3), np.float32)
    with torch.inference_mode():
        found = torch_network.translate(model)(torch.from_numpy(pictures).permute(0, 3, 1, 2)).numpy()
    np.testing.assert_allclose(found, model(pictures), rtol=1e-4, atol=1e-4)

    unknown = keras.Sequential([keras.Input((8, 8, 3)), layers.UpSampling2D(name="larger")])
    with pytest.raises(torch_network.UntranslatableError, match=r"larger.*UpSampling2D"):
        torch_network.translate(unknown._functional)
