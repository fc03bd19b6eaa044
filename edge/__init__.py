"""Run quantized language models on hardware people own."""
