# The Prometheus of the test cluster, from Debian's package, where no registry has prom/prometheus: both programs, the
# libraries they load, and certificates. Give it a volume for --storage.tsdb.path. The context is the root of the repository.

# A Debian that knows where its packages are.
ARG BASE_IMAGE

FROM ${BASE_IMAGE} AS program
WORKDIR /build
# What else the package depends on, a hundred packages, is for its web pages.
RUN set -eu; \
    apt-get update; \
    apt-get download prometheus; \
    dpkg-deb --extract prometheus_*.deb package; \
    mkdir -p root/usr/bin root/etc/ssl/certs; \
    cp package/usr/bin/prometheus package/usr/bin/promtool root/usr/bin; \
    cp /etc/ssl/certs/ca-certificates.crt root/etc/ssl/certs; \
    ldd root/usr/bin/* | grep --only-matching '/lib[^ ]*' | sort -u | xargs --no-run-if-empty cp --dereference --parents -t root; \
    for program in prometheus promtool; do chroot root /usr/bin/$program --version; done

FROM scratch
COPY --from=program /build/root /
ENV PATH=/usr/bin HOME=/tmp
USER 65534:65534
EXPOSE 9090
ENTRYPOINT ["prometheus"]
LABEL org.opencontainers.image.title="dlcloud-test-prometheus"
