# The authentication service as an image: dependencies as locked, no compiler, no root, no shell needed.
#
#   docker build -t auth-service .
#   docker run --read-only --cap-drop ALL -e AUTH_DATABASE_URL -e AUTH_MASTER_KEY \
#     -e AUTH_GRPC_ADDRESS='[::]:50051' -e AUTH_TLS_CERT_FILE=… -e AUTH_TLS_KEY_FILE=… auth-service
# Checked: hadolint passes (`make interop`), and its pip commands were run by hand; the image itself
# was not built, as there was no container engine.
FROM python:3.13-slim-bookworm AS build
WORKDIR /src
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
# Each wheel is one of the lock, by its hash; from here on no index is asked.
COPY requirements.lock ./
RUN pip download --require-hashes --only-binary :all: --dest /wheels --requirement requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY auth_service auth_service
COPY generated generated
# Of the wheels, only what the server needs.
RUN python -m venv /opt/auth-service \
 && /opt/auth-service/bin/pip install --no-index --find-links /wheels '.[server]'

FROM python:3.13-slim-bookworm
COPY --from=build /opt/auth-service /opt/auth-service
ENV PATH=/opt/auth-service/bin:$PATH PYTHONUNBUFFERED=1 AUTH_LOG_FORMAT=json
USER 65532:65532
EXPOSE 50051 8080
# SIGTERM, which an engine sends by default, drains.
ENTRYPOINT ["auth-service"]
CMD ["serve"]
