# syntax=docker/dockerfile:1
# One image for every command: `docker build -t sluicegate .`, then `docker run sluicegate worker support-chat`.
#
# Both bases must have the same Python and the same C library: packages are installed in the first and run in
# the second. Another registry or a distribution of your own:
#   docker build --build-arg BUILD_IMAGE=REGISTRY/python:3.13-dev --build-arg RUNTIME_IMAGE=REGISTRY/python:3.13 .
ARG BUILD_IMAGE=python:3.13.11-bookworm
ARG RUNTIME_IMAGE=python:3.13.11-slim-bookworm

# The full image has a compiler: faust-streaming has no wheel for arm64 and is built there.
FROM ${BUILD_IMAGE} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
RUN ["python3", "-m", "venv", "/opt/sluicegate"]
# Dependencies first: they change seldom, so that this layer is seldom built.
COPY requirements/runtime.lock requirements/build.lock requirements/
RUN ["/opt/sluicegate/bin/pip", "install", "--require-hashes", "--requirement", "requirements/runtime.lock"]
COPY pyproject.toml README.md LICENSE ./
COPY sluicegate sluicegate
COPY streams streams
COPY consumers consumers
# The build's own tools stay out of the image that runs.
RUN ["python3", "-m", "venv", "/opt/build"]
RUN ["/opt/build/bin/pip", "install", "--require-hashes", "--requirement", "requirements/build.lock"]
RUN ["/opt/build/bin/pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", "dist", "."]
RUN /opt/sluicegate/bin/pip install --no-deps --no-index dist/*.whl \
    && /opt/sluicegate/bin/python -m compileall -q -j 0 /opt/sluicegate/lib \
    && /opt/sluicegate/bin/pip uninstall --yes pip

FROM ${RUNTIME_IMAGE}
# A writable HOME for the few libraries that ask for one; everything else is read-only.
ENV PATH=/opt/sluicegate/bin:$PATH \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
COPY --from=build /opt/sluicegate /opt/sluicegate
# By number: Kubernetes can tell that it is not root without looking for a name in the image.
USER 65532:65532
WORKDIR /tmp
# Fails here, and not in production, when the two bases do not fit.
RUN ["sluicegate", "--help"]
EXPOSE 9464
# SIGTERM drains. Nothing stands between it and the process: there is no shell.
STOPSIGNAL SIGTERM
ENTRYPOINT ["sluicegate"]
CMD ["--help"]
