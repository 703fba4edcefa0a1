"""The float64 references' large products and convolutions on a card, by PyTorch: on the CPU they take minutes.

`install(torch)` puts them in the place of NumPy's in `reference` and `cuda_backward_cases`, which stay as they are.
PyTorch's own float64, not the kernels under test.
"""

from __future__ import annotations

import numpy as np
import reference

LEAST = 1 << 22  # multiply-adds; below, the way to the card and back costs more


class _Numpy:
    """NumPy with another `matmul`."""

    def __init__(self, matmul):
        self.matmul = matmul

    def __getattr__(self, name):
        return getattr(np, name)


def install(torch, device: str = "cuda", least: int = LEAST) -> None:
    """From now on the references compute on `device` what takes `least` multiply-adds or more."""

    def on_card(array):
        return torch.as_tensor(np.ascontiguousarray(array, np.float64), device=device)

    def matmul(a, b):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        if a.size * b.shape[-1] < least:
            return np.matmul(a, b)
        return torch.matmul(on_card(a), on_card(b)).cpu().numpy()

    on_cpu = reference.depthwise

    def depthwise(x, layer):
        rows, columns, channels, multiplier = layer.depthwise_filter.shape
        if x.size * rows * columns * multiplier < least:
            return on_cpu(x, layer)
        n, height, width, _ = x.shape
        pads = (layer.padding,) * 2 if isinstance(layer.padding, str) else layer.padding
        (out_h, top), (out_w, left) = (
            reference.window(size, kernel, layer.strides[i], layer.dilations[i], pads[i])
            for i, (size, kernel) in enumerate(((height, rows), (width, columns)))
        )
        x, d = on_card(x), on_card(layer.depthwise_filter)
        z = torch.zeros((n, out_h, out_w, channels, multiplier), dtype=torch.float64, device=device)
        for r in range(rows):
            p0, p1, h0 = reference._inside(height, out_h, layer.strides[0], r * layer.dilations[0] - top)
            for s in range(columns):
                q0, q1, w0 = reference._inside(width, out_w, layer.strides[1], s * layer.dilations[1] - left)
                if p0 >= p1 or q0 >= q1:
                    continue
                h1, w1 = h0 + (p1 - p0 - 1) * layer.strides[0] + 1, w0 + (q1 - q0 - 1) * layer.strides[1] + 1
                taps = x[:, h0 : h1 : layer.strides[0], w0 : w1 : layer.strides[1], :, None]
                z[:, p0:p1, q0:q1] += taps * d[r, s]
        return z.reshape(n, out_h, out_w, channels * multiplier).cpu().numpy()

    import cuda_backward_cases
    import cuda_block_cases

    reference.np = cuda_backward_cases.np = cuda_block_cases.np = _Numpy(matmul)
    reference.depthwise = depthwise
