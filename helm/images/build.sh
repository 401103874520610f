#!/usr/bin/env bash
# Build the CPU image without a Docker engine: buildah, in a chroot. As root, from a clone on Debian.
#   build.sh [DIR]     DIR: .cache/images
# The base is made by debootstrap from Debian's packages, with Debian's own Python 3.11 in the place of the one compiled for
# python:3.11-slim-bookworm, and its headers; BASE=IMAGE takes another. pip is configured as it is on this machine.
set -euo pipefail
cd "$(dirname "$0")/../.."

dir=$(realpath -m "${1:-.cache/images}")
base=${BASE:-localhost/lorecall-base:bookworm}
tag=$(sed -n 's/^appVersion: "\(.*\)"/\1/p' helm/lorecall/Chart.yaml)-cpu
mkdir -p "$dir"
for package in buildah runc debootstrap; do
  dpkg-query -W -f '${db:Status-Status}' $package 2>/dev/null | grep -qx installed ||
    DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends $package >"$dir/apt.log" 2>&1
done
export BUILDAH_ISOLATION=chroot
box() { buildah --root "$dir/storage" --runroot "$dir/run" --storage-driver overlay "$@"; }

if [ -z "${BASE:-}" ] && ! box images "$base" >/dev/null 2>&1; then
  rm -rf "$dir/base"
  debootstrap --variant=minbase --include=ca-certificates,libpython3-dev,python3,python3-venv bookworm "$dir/base" >"$dir/debootstrap.log"
  ln -s /usr/bin/python3 "$dir/base/usr/local/bin/python"
  cat /etc/ssl/certs/ca-certificates.crt >"$dir/base/etc/ssl/certs/ca-certificates.crt"
  container=$(box from scratch)
  box add -q "$container" "$dir/base" /
  box config --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin --cmd python3 "$container"
  box commit -q --rm "$container" "$base"
  rm -rf "$dir/base"
fi

# Folders of wheels on this machine's disk, where pip is configured with any, are lent to the build.
wheels=$(python3 -m pip config list | sed -n "s/^\(:env:\|global\)\.find-links='\(.*\)'$/\2/p" | sort -u)
printf '[global]\ncert = /etc/ssl/certs/ca-certificates.crt\nfind-links = %s\n' "${wheels//$'\n'/ }" >"$dir/pip.conf"
mounts=()
for folder in $wheels; do [ -d "$folder" ] && mounts+=(--volume "$folder:$folder:ro"); done

rm -rf "$dir/context" && mkdir "$dir/context"
git archive HEAD | tar -x -C "$dir/context"
began=$SECONDS
box build --pull=missing --layers "${mounts[@]}" --build-arg BASE="$base" --secret id=pip,src="$dir/pip.conf" \
  -f "$dir/context/helm/images/Dockerfile.cpu" -t "lorecall:$tag" "$dir/context" >"$dir/build.log" 2>&1 ||
  { tail -n 20 "$dir/build.log" >&2 && exit 1; }
rm -rf "$dir/context"
echo "lorecall:$tag built in $((SECONDS - began)) s"
box images --format '{{.Name}}:{{.Tag}} {{.Size}}'
