"""What is transmitted: voice, tones, data and noise."""
