"""Turn Hugging Face checkpoints into quantized GGUF files."""
