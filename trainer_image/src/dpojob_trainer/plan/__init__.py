"""What a job will need on its slice, found without the slice: its step, compiled ahead of time for exactly these chips.

Pure: :mod:`answer`, :mod:`extrapolate`, :mod:`fixes`, :mod:`hlo`, :mod:`memory`, :mod:`timing`. With JAX, EasyDeL and
libtpu: :mod:`topology` (devices that are not there), :mod:`lowering` (the trainer's own step), :mod:`measure`
(compilation), :mod:`planning` (all of it in order).
"""
