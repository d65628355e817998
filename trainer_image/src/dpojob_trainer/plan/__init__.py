"""What a job will need on its slice, found without the slice: its step, compiled ahead of time for exactly these chips.

Pure: :mod:`answer`, :mod:`extrapolate`, :mod:`fixes`, :mod:`guess`, :mod:`hlo`, :mod:`memory`, :mod:`timing`, :mod:`tuning`,
:mod:`whole`. With JAX, EasyDeL and libtpu: :mod:`topology` (devices that are not there), :mod:`lowering` (the trainer's own
step), :mod:`measure` (compilation), :mod:`cuts` (a model's first layers), :mod:`workers` (processes), :mod:`probing`,
:mod:`tune` and :mod:`planning` (all of it in order).
"""
