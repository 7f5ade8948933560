# A server of Python commands for a host of its own: the last stage has no Elixir. The stages have the same distribution.
FROM debian:bookworm AS build
RUN apt-get update \
    && apt-get install -y --no-install-recommends elixir erlang-dev gcc libc6-dev curl ca-certificates git python3-pip
# Only to build the native server, as for a git or path dependency.
RUN curl -sSf https://sh.rustup.rs | sh -s -- -y --profile minimal
ENV PATH=/root/.cargo/bin:$PATH MIX_ENV=prod LANG=C.UTF-8
WORKDIR /src
# .dockerignore lists _build, deps and .venv.
COPY . .
# Compiling puts the native server into the Python package.
RUN mix local.hex --force && mix deps.get && mix deps.compile snakepit \
    && python3 -m pip wheel --no-deps --wheel-dir /wheels deps/snakepit/python

FROM debian:bookworm AS python
RUN apt-get update && apt-get install -y --no-install-recommends python3 python3-venv
COPY requirements.txt .
COPY --from=build /wheels /wheels
# The folder is the same in the last stage: a virtual environment works only where it was made.
RUN python3 -m venv /opt/venv && /opt/venv/bin/pip install --no-cache-dir -r requirements.txt /wheels/*.whl

FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --no-create-home app
COPY --from=python /opt/venv /opt/venv
COPY priv/python /app
ENV LANG=C.UTF-8 PYTHONDONTWRITEBYTECODE=1
# By number, as Kubernetes needs it for runAsNonRoot.
USER 10001
WORKDIR /
EXPOSE 50051 50052
# Without a shell: Python itself gets SIGTERM. Further options come from the arguments of the container.
ENTRYPOINT ["/opt/venv/bin/python", "-m", "snakepit_bridge", "--import-path", "/app", "--adapter", "my_commands:MyCommands"]
CMD ["--listen", "tcp:0.0.0.0:50051", "--health-listen", "tcp:0.0.0.0:50052", "--token-file", "/run/secrets/tokens"]
