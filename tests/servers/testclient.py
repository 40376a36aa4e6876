"""Starlette's test client. Newer versions warn, when imported, of the HTTP client they find."""

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from starlette.testclient import TestClient

__all__ = ["TestClient"]
