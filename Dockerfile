# inpaint on the CPU. Build: docker build -t inpaint .
# Use: docker run --rm --user "$(id -u)" -v "$PWD:/photos" inpaint fill photo.jpg mask.png -o filled.jpg
FROM python:3.12-slim-bookworm AS build
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --no-install-recommends -y g++ && rm -rf /var/lib/apt/lists/*
RUN python -m venv /opt/inpaint
ENV PATH=/opt/inpaint/bin:$PATH
RUN pip install --no-cache-dir torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu
ARG EXTRAS=formats
COPY . /sources
RUN PATCHSWAP_CPU_ONLY=1 pip install --no-cache-dir "/sources[$EXTRAS]"

FROM python:3.12-slim-bookworm
COPY --from=build /opt/inpaint /opt/inpaint
ENV PATH=/opt/inpaint/bin:$PATH
RUN useradd --create-home --uid 1000 inpaint && mkdir /photos && chown inpaint /photos
USER 1000
WORKDIR /photos
ENTRYPOINT ["inpaint"]
CMD ["--help"]
