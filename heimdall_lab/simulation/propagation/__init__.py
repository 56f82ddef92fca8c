"""How a signal gets from a transmitter to a receiver: losses, diffraction, fading, terrain."""
