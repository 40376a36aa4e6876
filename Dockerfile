# The sample application: its web process, unless another command is given (see docker-compose.yml).
FROM python:3.13-slim

RUN useradd --create-home airfield && install --directory --owner=airfield /data
WORKDIR /app
COPY pyproject.toml README.md LICENSE ./
COPY asgi_jobs asgi_jobs
RUN pip install --no-cache-dir --upgrade 'pip>=25.1' && pip install --no-cache-dir '.[postgresql]' --group sample
COPY sample_app sample_app

USER airfield
ENV PYTHONUNBUFFERED=1 SAMPLE_DATA=/data
EXPOSE 8000
CMD ["python", "-m", "sample_app", "--host", "0.0.0.0"]
