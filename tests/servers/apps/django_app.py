"""Django's ASGI application, wrapped. It has no lifespan."""

from __future__ import annotations

from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import path

from asgi_jobs import JobsMiddleware
from tests.servers.apps.work import jobs, short

settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], SECRET_KEY="of a test", DEBUG=False)


async def ready(request: HttpRequest) -> HttpResponse:
    return HttpResponse("ready")


def enqueue(request: HttpRequest) -> HttpResponse:
    """A sync view: Django runs it in a thread."""
    return JsonResponse({"id": request.scope["state"]["jobs"].enqueue(short).id})


urlpatterns = [path("ready", ready), path("enqueue", enqueue)]
app = JobsMiddleware(get_asgi_application(), jobs=jobs, path="/jobs")
