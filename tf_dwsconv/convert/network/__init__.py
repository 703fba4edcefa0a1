"""Large parts of Keras models as programs, each in one `FusedNetwork`, and the way back.

_parts:      which calls of a graph one program can compute
_translate:  layers as steps of a program; _operations: ops of keras.ops; _call: what the rules of both see
_moves:      what takes parts of tensors, or turns them; _transposed: Conv2DTranspose
_builder:    the program, as it grows
_tidy:       steps that go into the steps before or behind them
_layers:     the way back: a layer for each step
_save:       a program's file
"""
