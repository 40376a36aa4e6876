"""Airfield: a small, real application with background jobs. Start it with `python -m sample_app`."""
