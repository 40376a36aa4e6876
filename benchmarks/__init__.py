"""How fast asgi_jobs is, side by side with other libraries in one run: ``python -m benchmarks memory``."""
