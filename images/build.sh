#!/usr/bin/env bash
# Builds dlcloud-operator and dlcloud-trainer with docker or podman and prints how much each adds to its base.
# Settings come from the environment; docs/images.md explains each.
#   images/build.sh [operator] [trainer]        both when none is named
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '%s\n' "$*" >&2; }
die() { say "make images: $*"; exit 1; }

container=${CONTAINER:-}
for program in docker podman; do
  [[ -n $container ]] || { command -v $program >/dev/null && $program info >/dev/null 2>&1 && container=$program; } || true
done
[[ -n $container ]] || die "needs docker or podman, and neither works here: install one (apt install podman), or name a program with CONTAINER="
command -v "$container" >/dev/null || die "CONTAINER: $container is not on the PATH; give docker or podman"

version=${VERSION:-$(sed -n 's/^version = "\(.*\)"$/\1/p' pyproject.toml)}
revision=${REVISION:-$(git rev-parse HEAD 2>/dev/null || echo unknown)}
epoch=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 315532800)}
base=${BASE_IMAGE:-$(sed -n 's/^ARG BASE_IMAGE=//p' operator/Dockerfile)}
wheels=${WHEELS:-}
[[ -z $wheels || -d $wheels ]] || die "WHEELS: $wheels is not a folder; give one that holds wheels"
torch=${TORCH:-}
if [[ -z $torch ]]; then
  torch=cuda
  [[ -z $wheels ]] || ! compgen -G "$wheels/torch-*+cpu-*.whl" >/dev/null || torch=cpu
fi
[[ $torch == cpu || $torch == cuda ]] || die "TORCH: '$torch' is not known; give cpu or cuda"

args=(--build-arg "BASE_IMAGE=$base" --build-arg "VERSION=$version" --build-arg "REVISION=$revision")
args+=(--build-arg "SOURCE=${SOURCE:-unknown}")
[[ -z ${BUILD_IMAGE:-} ]] || args+=(--build-arg "BUILD_IMAGE=$BUILD_IMAGE")
[[ -z $wheels ]] || args+=(--build-context "wheels=$(realpath "$wheels")")
# What belongs to this machine is a secret of the build: it is there while pip runs, and in no layer. The identifiers are
# in lower case: podman takes the environment's value for a secret that is called like a variable.
for name in PIP_CERT PIP_CONFIG_FILE; do
  [[ -z ${!name:-} ]] || args+=(--secret "id=${name,,},type=file,src=$(realpath "${!name}")")
done
for name in PIP_INDEX_URL PIP_EXTRA_INDEX_URL; do
  [[ -z ${!name:-} ]] || args+=(--secret "id=${name,,},env=$name")
done
if [[ $(basename "$container") == docker ]]; then
  export DOCKER_BUILDKIT=1
  args+=(--build-arg "SOURCE_DATE_EPOCH=$epoch")
else
  args+=(--timestamp "$epoch")
fi

size() { "$container" image inspect --format '{{.Size}}' "$1"; }
megabytes() { awk -v bytes="$1" 'BEGIN { printf "%.0f MB", bytes / 1e6 }'; }

size "$base" >/dev/null 2>&1 || "$container" pull "$base" ||
  die "BASE_IMAGE: no image $base here, and it cannot be pulled; give another one (docs/images.md tells how to make one without a registry)"

for part in "${@:-operator trainer}"; do
  for name in $part; do
    [[ -f $name/Dockerfile ]] || die "'$name' is no image; there are operator and trainer"
    image=${IMAGE_PREFIX:-dlcloud-}$name:$version
    extra=()
    [[ $name != trainer ]] || extra=(--build-arg "TORCH=$torch")
    started=$SECONDS
    # shellcheck disable=SC2086 # BUILD_FLAGS holds several words
    "$container" build ${BUILD_FLAGS:-} ${STAGE:+--target "$STAGE"} "${args[@]}" "${extra[@]}" -f "$name/Dockerfile" -t "$image" . >&2
    total=$(size "$image")
    printf '%s: %s, %s above %s, built in %s s\n' "$image" "$(megabytes "$total")" \
      "$(megabytes $((total - $(size "$base"))))" "$base" $((SECONDS - started))
  done
done
