# One image for web, worker and clock: `python manage.py start web|worker|clock`.

FROM python:3.11-slim-bookworm AS build
WORKDIR /app
RUN python -m venv /venv
COPY requirements.txt .
RUN /venv/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes -r requirements.txt
COPY . .
# Static files need no secret of anyone's: these settings end with this line.
RUN DEBUG=1 BLOX_VAR_DIR=/tmp/var /venv/bin/python manage.py collectstatic --noinput

FROM python:3.11-slim-bookworm
RUN useradd --uid 10001 --create-home blox && install -d -o blox /app/var
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 BLOX_HOST=0.0.0.0 PORT=8000
COPY --from=build /venv /venv
COPY --from=build /app /app
WORKDIR /app
USER blox
VOLUME /app/var
EXPOSE 8000
# For web; compose.yaml turns it off for worker and clock, whose end is what tells that they failed.
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen(f\"http://127.0.0.1:{os.environ['PORT']}/health/live\", timeout=4)"]
CMD ["python", "manage.py", "start", "web"]
