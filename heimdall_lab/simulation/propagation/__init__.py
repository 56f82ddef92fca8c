"""The way of a signal from a transmitter to a receiver.

`losses` has free space, smooth Earth, shadowing and noise power, `terrain` the loss over profiles of the ground; both
stand on `core.diffraction`. `fading` has the paths of a link and their gains. A new model is a module of functions on
arrays, with its source and equation numbers, that `simulation.scenes` calls.
"""
