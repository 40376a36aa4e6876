"""The status page: a mountable ASGI application."""
