"""Prompts: how they are cleaned, and (later) written."""
