"""Measurements that can be made again; `python -m benchmarks.NAME --help`."""
