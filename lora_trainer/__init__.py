"""Trains and handles LoRA adapters for MOVA: `python -m lora_trainer`."""
