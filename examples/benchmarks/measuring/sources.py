"""What the two sources measured, as they print it.

STUDY: the post "Depth-wise Separable Convolutions" (TensorFlow 2.1; V100, TPUv2, E5-2698v4). Its training benchmark
is in `train_cifar.py`.
REPORT: Lien, Banka and Jogani, "Communication-Avoiding Depthwise-Separable Convolutions" (CS 267, 2022; PyTorch, a CPU
with AVX-512 that it does not name, and a GPU of the Bridges cluster).
"""

from __future__ import annotations

STUDY = "GPU study"
REPORT = "report"

# The study's layer: H=W=224, C=K=128, 3x3. Convolutions (images) a second, dense and separable.
STUDY_CONVOLUTIONS = {
    ("V100, float16", 1): (3585, 4241),
    ("V100, float16", 16): (4097, 4335),
    ("TPUv2 core, bfloat16", 16): (1459, 519),
    ("TPUv2 chip, bfloat16", 16): (2606, 536),
    ("E5-2698v4 (20 cores), float32", 16): (85, 245),
}
# The same layer on a V100: TFLOPS with a multiply-add counted once; dense and separable.
STUDY_TFLOPS = {1: (26.5, 3.73), 16: (30.3, 3.81)}
# Its theory for one image: parameters, operations (a multiply-add once), megabytes of float16, operations an element.
STUDY_THEORY = {"dense": ("147k", 7.4, 26.0, 569.5), "dws": ("18k", 0.88, 25.7, 68.4)}
STUDY_BANDWIDTH = {"dense": 106.5, "dws": 111.4}  # GB/s, megabytes times convolutions a second at batch 16
# Nsight Compute, batch 16, float16, the main kernel: milliseconds, GB/s, megabytes loaded and stored.
STUDY_KERNEL = {"dense": (3.0, 137.7, 202, 193), "dws": (2.2, 218.7, 193, 193)}
# Training four convolutions of 128 channels on CIFAR-10, dense and separable.
STUDY_TRAINING_PARAMETERS = ("529k", "136k")
STUDY_TRAINING_ACCURACY = (81, 74)  # percent

REPORT_LAYER = (128, 512, 512, 3)
REPORT_LAYER_SECONDS = (1.264, 0.1377)  # PyTorch, theirs
REPORT_LAYER_GAIN = 9.179
REPORT_GPU_GAIN = 1.1  # over PyTorch, one layer
REPORT_CUDA_GAIN = (2, 100)  # over serial code, by the input's size
REPORT_MOBILENET_GAIN = 2.0  # over PyTorch, MobileNetV1 at batch 128
REPORT_CONVNEXT_GAIN = 1 / 2.8  # a slow-down
REPORT_ORDER_GAIN = 13.0  # loop ordering, the larger tensors
REPORT_UNROLL_GAIN = 1.5
REPORT_REGISTER_GAIN = 2.0  # the filter kept in vector registers
REPORT_LP_GAIN = 2.0  # tiles of the linear program, in the OpenMP version
REPORT_SWEEP_GAIN = 2.0  # tiles of the parameter sweep, over those before
