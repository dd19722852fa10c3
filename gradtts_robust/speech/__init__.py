"""Sound and text: waves, mels, symbols, vocoders, speaker encoders."""
