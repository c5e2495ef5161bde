# neural-cleanse without a network: build where there is one, carry the image over, run with --network none.
#
#   docker build -t neural-cleanse .
#   docker save neural-cleanse | gzip > neural-cleanse.tar.gz        # there: docker load < neural-cleanse.tar.gz
#   docker run --rm --network none --read-only --tmpfs /tmp -v "$PWD:/work" neural-cleanse \
#       scan model.onnx --data images/ --output out/scan
FROM python:3.12-slim AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE constraints.txt ./
COPY src ./src
RUN python -m venv /opt/neural-cleanse \
    && /opt/neural-cleanse/bin/pip install --no-cache-dir -c constraints.txt \
        --extra-index-url https://download.pytorch.org/whl/cpu '.[all]'

FROM python:3.12-slim
# bubblewrap is the sandbox of --allow-code
RUN apt-get update \
    && apt-get install --yes --no-install-recommends bubblewrap \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home scanner
COPY --from=build /opt/neural-cleanse /opt/neural-cleanse
ENV PATH=/opt/neural-cleanse/bin:$PATH PYTHONDONTWRITEBYTECODE=1
USER scanner
WORKDIR /work
ENTRYPOINT ["neural-cleanse"]
CMD ["--help"]
