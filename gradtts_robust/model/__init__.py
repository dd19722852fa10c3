"""The Grad-TTS network and its maths."""
