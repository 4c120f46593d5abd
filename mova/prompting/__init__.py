"""Prompts: how they are cleaned, planned, written, checked and mended. No torch at import."""
