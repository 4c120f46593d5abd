"""Prompts: how they are cleaned, planned, written, checked and repaired. No torch at import."""
