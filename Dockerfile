# knee in a container: docker build -t knee . && docker run --rm knee tune --slo ttft=200ms
# `scripts/try-installs docker` runs these steps without Docker.
FROM rust:1.95-slim-trixie AS build
WORKDIR /src
COPY . .
RUN cargo install --path . --locked --root /opt/knee

FROM debian:trixie-slim
RUN apt-get update && apt-get install --yes --no-install-recommends ca-certificates && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/knee/bin/knee /usr/local/bin/knee
COPY LICENSE THIRD-PARTY.md /usr/share/doc/knee/
# Results are written where the command runs: mount a folder here to keep them.
WORKDIR /work
ENTRYPOINT ["knee"]
